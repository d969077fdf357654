"""The lake: streams, the append transaction and the transforms. Knows nothing of the consumer."""
