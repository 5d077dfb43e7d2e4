"""Replay: the rows of a file, sent as events through Kafka in the order in which they happened.

From a file to the broker, each step a module:

    rows      a CSV, text, JSON-lines or Parquet file, row by row
    mapping   columns to the fields of an event          presets   the same for known data sets
    event     a validated event as bytes
    ordering  events by event time                       source    all of the above, put together
    pace      when an event is due                       batches   by partition, acknowledged or not
    send      to the broker, with a position             resume    that position, kept in a file
    run       a replay from beginning to end             progress  shown to people
    stopping  signals to end, taken in good order
"""
