"""Simulate: a shop whose truth is known, sent through Kafka as orders, interactions and feedback.

From a scenario to the broker, each step a module:

    scenario  what the shop is like                      shifts    what is planted: moves, campaigns
    profile   demand by day, source and channel          people    who the customers are
    shop      what they do, day by day                   truth     what was true, for a file
    events    columns to messages                        outbox    messages by the time they go out
    chance    random numbers from the seed               run       to the broker, with a position

``Shop(scenario).events()`` gives the events without a broker.
"""
