"""Trend alerts: what a series should be, whether it changed, whether that is worth an alert.

``expectation`` predicts the next point and standardises what came instead, ``detectors`` look for a
change in that, ``decision`` makes alerts of changes, ``explanation`` says what happened. All take
many series at once, one row each, and one point of every series a call: a bucket that closes
closes for all.
"""
