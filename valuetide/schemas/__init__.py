"""What flows: events, scores, dead letters, topics and the vocabulary. Imports nothing of ours."""
