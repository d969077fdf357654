"""Rows of the six Klaviyo streams."""

import json
from dataclasses import dataclass, field

from consumer.landing.people import Person, Row, make_email, make_person
from consumer.landing.shop import CURRENCY, DAY_US, SECOND_US, Shop

API = "https://a.klaviyo.com/api"
METRICS = (
    "Placed Order",
    "Opened Email",
    "Clicked Email",
    "Viewed Product",
    "Refunded Order",
    "Bestellung: storniert",
)

NAMES = ("Welcome", "Win-back", "Ostern", "ブラックフライデー", "VIP “only”")


@dataclass(kw_only=True, slots=True)
class Profile:
    """A profile as it is now. Its mail address may be that of a customer of the shop."""

    profile_id: str
    person: Person
    email: str | None
    created_at: int
    last_event_at: int | None = None


@dataclass(kw_only=True, slots=True)
class Named:
    """A campaign, a flow, a list or a metric as it is now."""

    named_id: str
    name: str
    created_at: int


@dataclass(kw_only=True)
class Account:
    """The marketing account of a shop."""

    shop: Shop
    profiles: list[Profile] = field(default_factory=list[Profile])
    metrics: list[Named] = field(default_factory=list[Named])
    named: dict[str, list[Named]] = field(default_factory=dict[str, list[Named]])

    def new_profile(self) -> Profile:
        """Signs up a profile: most have the address of a customer, in their own spelling."""
        dice = self.shop.dice
        person = make_person(dice)
        profile = Profile(
            profile_id=f"01{dice.hex(96).upper()}",
            person=person,
            email=self._email(person),
            created_at=self.shop.recently() - dice.below(300) * DAY_US,
        )
        self.profiles.append(profile)
        return profile

    def some_profile(self) -> Profile:
        """Returns a new profile or one that is known."""
        if not self.profiles or self.shop.dice.chance(0.25):
            return self.new_profile()
        return self.shop.dice.recent(self.profiles, window=50)

    def touch_profile(self, profile: Profile) -> None:
        """Moves a profile to another mail address, now and then."""
        if self.shop.dice.chance(0.25):
            profile.email = self._email(profile.person)

    def some_named(self, kind: str) -> Named:
        """Returns a campaign, flow or list, new or known."""
        dice = self.shop.dice
        known = self.named.setdefault(kind, [])
        if not known or dice.chance(0.3):
            known.append(self._new_named(f"{dice.pick(NAMES)} {len(known) + 1}"))
        return dice.recent(known, window=30)

    def some_metric(self) -> Named:
        """Returns one of the account's few metrics."""
        if not self.metrics:
            self.metrics.extend(self._new_named(name) for name in METRICS)
        return self.shop.dice.pick(self.metrics)

    def _new_named(self, name: str) -> Named:
        return Named(named_id=self.shop.dice.hex(24).upper(), name=name, created_at=self.shop.recently())

    def _email(self, person: Person) -> str | None:
        dice = self.shop.dice
        if dice.chance(0.3):
            return make_email(dice, person, dice.below(1_000_000))
        email = dice.recent(self.shop.customers, window=50).email
        return email.upper() if email is not None and dice.chance(0.15) else email


def _links(kind: str, object_id: str) -> Row:
    return {"self": f"{API}/{kind}/{object_id}/"}


def _related(kind: str, object_id: str, what: str) -> Row:
    base = f"{API}/{kind}/{object_id}"
    return {"self": f"{base}/relationships/{what}/", "related": f"{base}/{what}/"}


# One encoder for all: json.dumps makes a new one for each call with other than the default settings.
json_text = json.JSONEncoder(ensure_ascii=False).encode


def profile_row(account: Account) -> Row:
    """Signs up a profile or changes one, and pictures it."""
    shop = account.shop
    dice = shop.dice
    profile = account.some_profile()
    account.touch_profile(profile)
    updated = shop.recently()
    person = profile.person
    city, region, _, country, _, postcode, timezone = person.place
    attributes: Row = {
        "email": profile.email,
        "image": dice.maybe("https://cdn.example.com/p/1.png", present=0.2),
        "title": dice.pick(("Dr.", "Käuferin", None)),
        "locale": dice.pick(("de-DE", "en-NZ", "ja-JP", None)),
        "created": profile.created_at,
        "updated": updated,
        "location": dice.maybe(
            {
                "ip": f"203.0.113.{dice.below(255)}",
                "zip": postcode,
                "city": city,
                "region": region,
                "country": country,
                "address1": person.street,
                "address2": dice.maybe("c/o O'Neil", present=0.2),
                "timezone": timezone,
            },
            present=0.93,
        ),
        "last_name": dice.maybe(person.last_name),
        "first_name": dice.maybe(person.first_name),
        "properties": dice.maybe(
            json_text(
                {
                    "Größe": dice.pick(("S", "M")),
                    "tags": ["a", "ü", None],
                    "nested": {"n": dice.below(99), "e": {}},
                }
            )
        ),
        "external_id": dice.maybe(dice.hex(32), present=0.3),
        "anonymous_id": None,
        "organization": dice.maybe("Acme, Inc.", present=0.2),
        "phone_number": dice.maybe(person.phone, present=0.6),
        "subscriptions": dice.maybe(_subscriptions(account, updated)),
        "last_event_date": profile.last_event_at,
        "predictive_analytics": dice.maybe(_predictions(account), present=0.8),
    }
    return {
        "id": dice.maybe(profile.profile_id, present=0.997),
        "type": "profile",
        "links": _links("profiles", profile.profile_id),
        "updated": updated,
        "segments": dice.maybe(json_text([{"id": dice.hex(24).upper(), "name": "Treue «A»"}]), present=0.3),
        "attributes": attributes,
        "relationships": {
            "lists": {"links": _related("profiles", profile.profile_id, "lists")},
            "segments": {"links": _related("profiles", profile.profile_id, "segments")},
        },
    }


def _subscriptions(account: Account, updated: int) -> Row:
    dice = account.shop.dice
    when = updated - dice.below(90) * DAY_US
    consent: Row = {
        "method": dice.pick(("WEBFORM", "API", None)),
        "consent": dice.pick(("SUBSCRIBED", "UNSUBSCRIBED", "NEVER_SUBSCRIBED")),
        "timestamp": when,
        "last_updated": dice.maybe(updated),
        "method_detail": dice.pick(("Fußzeile", "", None)),
        "consent_timestamp": dice.maybe(when),
    }
    sms = {**consent, "can_receive_sms_marketing": dice.chance(0.5)}
    push = {"consent": consent["consent"], "consent_timestamp": when, "can_receive_sms_marketing": False}
    suppressions = [{"reason": "HARD_BOUNCE", "timestamp": when}] if dice.chance(0.2) else []
    return {
        "sms": dice.maybe({"marketing": sms, "transactional": dice.maybe(sms, present=0.5)}),
        "email": {
            "marketing": {
                **consent,
                "double_optin": dice.chance(0.5),
                "suppressions": suppressions,
                "list_suppressions": (
                    [{"reason": "USER_SUPPRESSED", "list_id": "XyZ123", "timestamp": when}]
                    if dice.chance(0.1)
                    else None
                ),
                "custom_method_detail": None,
                "can_receive_email_marketing": not suppressions,
            }
        },
        "mobile_push": dice.maybe({"marketing": push}, present=0.3),
    }


def _predictions(account: Account) -> Row:
    dice = account.shop.dice
    historic = dice.below(500_000) / 100
    predicted = dice.below(100_000) / 100
    return {
        "total_clv": (round(historic * 100) + round(predicted * 100)) / 100,
        "historic_clv": historic,
        "predicted_clv": predicted,
        "churn_probability": dice.maybe(dice.below(10_000) / 10_000),
        "average_order_value": dice.maybe(dice.below(30_000) / 100),
        "historic_number_of_orders": dice.below(40),
        "predicted_number_of_orders": dice.below(300) / 100,
        "average_days_between_orders": dice.maybe(dice.below(9_000) / 100),
        "expected_date_of_next_order": dice.maybe("2025-02-28T00:00:00"),
    }


def event_row(account: Account) -> Row:
    """Pictures something that a profile did."""
    shop = account.shop
    dice = shop.dice
    profile = account.some_profile()
    metric = account.some_metric()
    event_id = dice.hex(44)
    happened = shop.recently()
    profile.last_event_at = happened
    properties: Row = {
        "$event_id": event_id,
        "$value": dice.below(30_000) / 100,
        "currency": CURRENCY,
        "Items": [
            {"name": "Tee, Größe M", "price": 19.99, "tags": ["新", "sale"]},
            {"name": 'a "quoted" one'},
        ],
        "extra": {"utm": {"source": dice.pick(("mail", "ad", None)), "emoji": "🪷"}, "empty": [], "n": None},
    }
    attributions = {
        "data": [{"type": "attribution", "id": dice.hex(48)}] if dice.chance(0.3) else [],
        "links": _related("events", event_id, "attributions"),
    }
    return {
        "id": dice.maybe(event_id, present=0.997),
        "type": "event",
        "links": _links("events", event_id),
        "datetime": happened,
        "attributes": {
            "uuid": dice.uuid(),
            "datetime": happened,
            "timestamp": happened // SECOND_US,
            "event_properties": dice.maybe(json_text(properties), present=0.97),
        },
        "relationships": {
            "metric": {
                "data": {"type": "metric", "id": metric.named_id},
                "links": _related("events", event_id, "metric"),
            },
            "profile": dice.maybe(
                {
                    "data": {"type": "profile", "id": profile.profile_id},
                    "links": _related("events", event_id, "profile"),
                },
                present=0.98,
            ),
            "attributions": attributions,
        },
    }
