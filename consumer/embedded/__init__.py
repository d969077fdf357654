"""Real servers on 127.0.0.1 for the demo, `lotus-lake up` and the tests."""
