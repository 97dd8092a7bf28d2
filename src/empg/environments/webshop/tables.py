"""Tables of the generated shop: five departments, the product types in each, and their words.

The words are chosen so that the official reward distinguishes them. Two values of one option never match each other,
and an attribute is found only where it is written.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProductType:
    """A product type: its name, its shelf (the subcategory), and its price range in dollars (lowest, highest)."""

    name: str
    shelf: str
    price: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Department:
    """A category of the catalogue. `options` are (name, possible values, number of values per product)."""

    category: str
    breadcrumb: str
    kinds: tuple[ProductType, ...]
    attributes: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...], int], ...]
    uses: tuple[str, ...]


_COLOURS = tuple(
    "black white red blue green grey pink purple navy beige brown yellow teal olive silver ivory maroon khaki".split()  # noqa: SIM905
)


def _kinds(shelf: str, price: tuple[int, int], *names: str) -> tuple[ProductType, ...]:
    return tuple(ProductType(name, shelf, price) for name in names)


DEPARTMENTS = (
    Department(
        "beauty",
        "Beauty & Personal Care",
        (
            *_kinds("Makeup", (6, 28), "lip gloss", "eye shadow palette", "makeup brush", "nail polish"),
            *_kinds("Skin Care", (9, 48), "face mask", "eye cream", "body lotion"),
            *_kinds("Hair Care", (8, 36), "hair conditioner", "hair brush", "hair oil"),
        ),
        (
            *("long lasting", "cruelty free", "paraben free", "alcohol free", "fragrance free", "sulfate free"),
            *("oil free", "anti aging", "non toxic", "high quality", "sensitive skin", "tea tree"),
        ),
        (
            ("color", _COLOURS, 4),
            ("size", ("1 ounce", "2 ounce", "4 ounce", "8 ounce"), 3),
        ),
        ("a daily routine", "travel", "a gift set", "every type of skin"),
    ),
    Department(
        "fashion",
        "Clothing, Shoes & Jewelry",
        (
            *_kinds("Tops", (14, 58), "cardigan", "hoodie", "polo shirt", "tank top"),
            *_kinds("Shoes", (19, 88), "sneakers", "ankle boots", "slippers"),
            *_kinds("Bottoms", (15, 66), "jeans", "yoga leggings", "cargo shorts"),
        ),
        (
            *("machine wash", "hand wash", "slim fit", "loose fit", "classic fit", "quick drying", "rubber sole"),
            *("arch support", "elastic waist", "polyester cotton", "tummy control", "comfortable fit"),
        ),
        (
            ("color", _COLOURS, 4),
            ("size", ("small", "medium", "large", "petite"), 3),
        ),
        ("cold evenings", "work", "long walks", "the weekend"),
    ),
    Department(
        "garden",
        "Home & Kitchen",
        (
            *_kinds("Furniture", (39, 240), "console table", "bar stool", "storage bench", "bookcase"),
            *_kinds("Home Decor", (12, 95), "throw pillow", "wall mirror", "area rug"),
            *_kinds("Lighting", (18, 120), "floor lamp", "string lights", "bedside lamp"),
        ),
        (
            *("living room", "easy assemble", "easy clean", "solid wood", "heavy duty", "space saving", "non slip"),
            *("fully assembled", "steel frame", "high density", "eco friendly", "machine washable"),
        ),
        (
            ("color", _COLOURS, 4),
            ("size", ("12 inch", "24 inch", "36 inch", "48 inch"), 3),
        ),
        ("small rooms", "the hallway", "the dining room", "a quiet corner"),
    ),
    Department(
        "grocery",
        "Grocery & Gourmet Food",
        (
            *_kinds("Beverages", (6, 32), "green tea", "coffee beans", "fruit juice"),
            *_kinds("Snacks", (5, 29), "trail mix", "protein bar", "potato chips", "popcorn"),
            *_kinds("Pantry", (4, 26), "hot sauce", "pasta", "peanut butter"),
        ),
        (
            *("gluten free", "sugar free", "non gmo", "dairy free", "low sodium", "high protein", "plant based"),
            *("keto friendly", "low calorie", "soy free", "usda organic", "individually wrapped"),
        ),
        (
            ("flavor", ("vanilla", "lemon", "mango", "ginger", "honey", "mint", "coconut", "maple", "berry"), 4),
            ("size", ("1 count", "6 count", "12 count", "24 count"), 3),
        ),
        ("busy mornings", "the lunch box", "a movie night", "guests"),
    ),
    Department(
        "electronics",
        "Electronics",
        (
            *_kinds("Audio", (15, 140), "earbuds", "portable speaker", "gaming headset"),
            *_kinds("Accessories", (7, 42), "phone case", "screen protector", "tablet stand", "watch band"),
            *_kinds("Power", (8, 64), "charging cable", "power bank", "wall charger"),
        ),
        (
            *("fast charging", "easy install", "noise cancelling", "water resistant", "high definition", "hands free"),
            *("light weight", "carrying case", "high speed", "tempered glass", "wireless bluetooth", "stereo sound"),
        ),
        (
            ("color", _COLOURS, 4),
            ("size", ("3 feet", "6 feet", "10 feet", "15 feet"), 3),
        ),
        ("the office", "road trips", "the gym", "small desks"),
    ),
)

BRAND_SYLLABLES = tuple("ba ve lo mi ra zu ken dor lin tas pel mar jo sti vo ny gra hul fe qui".split())  # noqa: SIM905

# {0}: the attributes and the product type ("long lasting, oil free eye cream").
REQUESTS = ("Find me {0}", "I need {0}", "I am looking for {0}", "I want to buy {0}")
