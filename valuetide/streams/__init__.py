"""How it flows: transport, agents, state in Redis, command line, HTTP. Imports schemas, scoring."""
