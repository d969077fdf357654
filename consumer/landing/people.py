"""Made-up people: names, addresses and mail addresses, with the characters that real ones have."""

from dataclasses import dataclass

from consumer.landing.dice import Dice

Row = dict[str, object]
"""One record as a source has it: objects are dicts, timestamps are microseconds since 1970 in UTC."""

FIRST_NAMES = (
    "Ada",
    "Björn",
    "Chloé",
    "Dmitri",
    "Eun-ji",
    "Fatima",
    "Günter",
    "Hōkū",
    "Ines",
    "José",
    "Karin",
    "Łukasz",
)
LAST_NAMES = (
    "Ångström",
    "Brown",
    "Çelik",
    "D'Arcy",
    "Eze",
    "Fernández",
    "García",
    "Holm",
    "李",
    "O'Neil",
    "Szabó",
    "van Dijk",
)
PLACES = (
    ("Berlin", "Berlin", "BE", "Germany", "DE", "10115", "Europe/Berlin"),
    ("Zürich", "Zürich", "ZH", "Switzerland", "CH", "8001", "Europe/Zurich"),
    ("São Paulo", "São Paulo", "SP", "Brazil", "BR", "01310-100", "America/Sao_Paulo"),
    ("Auckland", "Auckland", "AUK", "New Zealand", "NZ", "1010", "Pacific/Auckland"),
    ("東京", "Tokyo", "JP-13", "Japan", "JP", "100-0001", "Asia/Tokyo"),
    ("Boston", "Massachusetts", "MA", "United States", "US", "02108", "America/New_York"),
    ("Kraków", "Małopolskie", "12", "Poland", "PL", "30-001", "Europe/Warsaw"),
)
STREETS = ("Hauptstraße", "Rua Augusta", "Queen Street", "Beacon St", "ulica Długa", "Rämistrasse")
COMPANIES = ("Lotus & Söhne GmbH", "Acme, Inc.", 'The "Quoted" Company', "データ株式会社")


@dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A name and a place."""

    first_name: str
    last_name: str
    phone: str
    street: str
    place: tuple[str, str, str, str, str, str, str]


def make_person(dice: Dice) -> Person:
    """Draws a person."""
    return Person(
        first_name=dice.pick(FIRST_NAMES),
        last_name=dice.pick(LAST_NAMES),
        phone=f"+49{dice.between(1_000_000, 9_999_999)}",
        street=f"{dice.pick(STREETS)} {dice.between(1, 199)}",
        place=dice.pick(PLACES),
    )


def make_email(dice: Dice, person: Person, number: int) -> str:
    """Draws a mail address; some are written in capitals, which the models fold."""
    local = "".join(
        char for char in f"{person.first_name}.{person.last_name}" if char.isascii() and char != "'"
    )
    email = f"{local.lower()}{number}@{dice.pick(('example.com', 'example.org', 'mail.example.net'))}"
    return email.title() if dice.chance(0.1) else email


def shop_address(dice: Dice, person: Person, *, address_id: int, customer_id: int) -> Row:
    """Returns the address as Shopify nests it in a customer."""
    city, province, province_code, country, country_code, postcode, _ = person.place
    return {
        "id": address_id,
        "zip": postcode,
        "city": city,
        "name": f"{person.first_name} {person.last_name}",
        "phone": dice.maybe(person.phone, present=0.7),
        "company": dice.maybe(dice.pick(COMPANIES), present=0.2),
        "country": country,
        "default": True,
        "address1": person.street,
        "address2": dice.maybe("Apt. 4 / 2. Stock", present=0.2),
        "province": province,
        "last_name": person.last_name,
        "first_name": person.first_name,
        "customer_id": customer_id,
        "country_code": country_code,
        "country_name": country,
        "province_code": province_code,
    }
