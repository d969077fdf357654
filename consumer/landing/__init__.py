"""A landing that behaves like the Airbyte S3 destination, and what it should become."""
