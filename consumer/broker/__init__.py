"""NATS: the queue of key events, the feeds, and two small KV buckets. The only package that imports nats.

Every error of the client is classified in `connection`, once: `Unavailable` (wait and try again) or
`BrokerMisconfigured` (no waiting mends it).
"""

from consumer.broker.client import Broker
from consumer.broker.config import BrokerConfig
from consumer.broker.delivery import Delivery
from consumer.broker.micro import Endpoint, Reply

__all__ = ["Broker", "BrokerConfig", "Delivery", "Endpoint", "Reply"]
