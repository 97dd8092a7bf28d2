"""Tables of the generator and the expert: receptacles per room kind, usual places of objects, accepted object types.

Names are ALFRED's. `ACCEPTS` agrees with the receptacle rules of ALFRED for every pair that it lists. `HOMES` is our
own table of the usual places of each object, the most likely first.
"""

from __future__ import annotations

from empg.environments.alfworld.world import TaskType

OPENABLE = frozenset(("Cabinet", "Drawer", "Fridge", "Microwave", "Safe"))
LAMPS = ("DeskLamp", "FloorLamp")
SLICEABLE = frozenset(("Apple", "Bread", "Egg", "Lettuce", "Potato", "Tomato"))
HEATABLE = frozenset(("Apple", "Bread", "Cup", "Egg", "Mug", "Plate", "Potato", "Tomato"))
COOLABLE = HEATABLE | {"Bowl", "Lettuce", "Pan", "Pot", "WineBottle"}
CLEANABLE = frozenset(
    (
        *("Apple", "Egg", "Lettuce", "Potato", "Tomato"),
        *("Bowl", "Cup", "Mug", "Plate", "Kettle", "Pan", "Pot"),
        *("ButterKnife", "Fork", "Knife", "Ladle", "Spatula", "Spoon"),
        *("Cloth", "DishSponge", "SoapBar"),
    )
)

# Room kind -> receptacle type -> counts: (minimum, maximum) in a small room, (minimum, maximum) in a full one.
ROOMS: dict[str, dict[str, tuple[tuple[int, int], tuple[int, int]]]] = {
    "kitchen": {
        "Cabinet": ((1, 3), (4, 9)),
        "CoffeeMachine": ((0, 0), (1, 1)),
        "CounterTop": ((1, 2), (2, 3)),
        "DiningTable": ((0, 1), (0, 2)),
        "Drawer": ((0, 2), (3, 6)),
        "Fridge": ((1, 1), (1, 1)),
        "GarbageCan": ((0, 1), (1, 1)),
        "Microwave": ((1, 1), (1, 1)),
        "Shelf": ((0, 0), (0, 3)),
        "SinkBasin": ((1, 1), (1, 1)),
        "StoveBurner": ((0, 0), (2, 4)),
        "Toaster": ((0, 0), (1, 1)),
    },
    "living room": {
        "ArmChair": ((0, 1), (1, 2)),
        "Cabinet": ((0, 0), (0, 4)),
        "CoffeeTable": ((0, 1), (1, 2)),
        "DiningTable": ((0, 0), (0, 1)),
        "Drawer": ((0, 2), (2, 6)),
        "Dresser": ((0, 1), (0, 1)),
        "GarbageCan": ((0, 0), (1, 1)),
        "Safe": ((0, 1), (0, 1)),
        "Shelf": ((1, 2), (1, 5)),
        "SideTable": ((1, 2), (1, 3)),
        "Sofa": ((1, 1), (1, 2)),
    },
    "bedroom": {
        "Bed": ((1, 1), (1, 1)),
        "Desk": ((1, 1), (1, 2)),
        "Drawer": ((1, 3), (3, 9)),
        "Dresser": ((0, 1), (0, 1)),
        "GarbageCan": ((0, 0), (1, 1)),
        "LaundryHamper": ((0, 0), (0, 1)),
        "Safe": ((0, 1), (0, 1)),
        "Shelf": ((1, 2), (1, 6)),
        "SideTable": ((0, 1), (1, 2)),
    },
    "bathroom": {
        "BathtubBasin": ((0, 1), (1, 1)),
        "Cabinet": ((1, 3), (2, 5)),
        "Cart": ((0, 0), (0, 1)),
        "CounterTop": ((1, 1), (1, 1)),
        "Drawer": ((0, 1), (0, 4)),
        "GarbageCan": ((0, 1), (1, 1)),
        "HandTowelHolder": ((0, 0), (1, 2)),
        "Shelf": ((0, 1), (0, 3)),
        "SinkBasin": ((1, 1), (1, 2)),
        "Toilet": ((1, 1), (1, 1)),
        "ToiletPaperHanger": ((0, 0), (1, 1)),
    },
}

TASK_ROOMS: dict[TaskType, tuple[str, ...]] = {
    TaskType.PICK: ("kitchen", "living room", "bedroom", "bathroom"),
    TaskType.LOOK: ("living room", "bedroom"),
    TaskType.CLEAN: ("kitchen", "bathroom"),
    TaskType.HEAT: ("kitchen",),
    TaskType.COOL: ("kitchen",),
    TaskType.PICK_TWO: ("kitchen", "living room", "bedroom", "bathroom"),
}

# Room kind -> object type -> the receptacle types where it is kept, the most likely first.
HOMES: dict[str, dict[str, tuple[str, ...]]] = {
    "kitchen": {
        "Apple": ("Fridge", "CounterTop", "DiningTable"),
        "Bowl": ("Cabinet", "DiningTable", "Shelf", "Fridge"),
        "Bread": ("CounterTop", "DiningTable", "Fridge"),
        "ButterKnife": ("Drawer", "CounterTop", "DiningTable"),
        "Cup": ("Cabinet", "SinkBasin", "Shelf", "Microwave"),
        "DishSponge": ("SinkBasin", "CounterTop", "Cabinet"),
        "Egg": ("Fridge", "CounterTop", "SinkBasin"),
        "Fork": ("Drawer", "SinkBasin", "CounterTop"),
        "Kettle": ("StoveBurner", "Cabinet", "CounterTop"),
        "Knife": ("Drawer", "CounterTop", "SinkBasin"),
        "Ladle": ("Drawer", "CounterTop", "SinkBasin"),
        "Lettuce": ("Fridge", "CounterTop", "SinkBasin"),
        "Mug": ("CoffeeMachine", "Cabinet", "SinkBasin", "CounterTop"),
        "Pan": ("StoveBurner", "Cabinet", "CounterTop"),
        "PepperShaker": ("Cabinet", "CounterTop", "Drawer"),
        "Plate": ("Cabinet", "DiningTable", "SinkBasin"),
        "Pot": ("StoveBurner", "Cabinet", "SinkBasin"),
        "Potato": ("Fridge", "CounterTop", "Microwave"),
        "SaltShaker": ("Cabinet", "Drawer", "DiningTable"),
        "SoapBottle": ("CounterTop", "Cabinet", "GarbageCan"),
        "Spatula": ("Drawer", "CounterTop", "SinkBasin"),
        "Spoon": ("Drawer", "SinkBasin", "DiningTable"),
        "Tomato": ("Fridge", "CounterTop", "SinkBasin"),
        "WineBottle": ("Fridge", "Cabinet", "DiningTable"),
    },
    "living room": {
        "Book": ("Shelf", "CoffeeTable", "Sofa"),
        "Box": ("Sofa", "CoffeeTable", "Shelf"),
        "Candle": ("Shelf", "CoffeeTable", "Dresser"),
        "CreditCard": ("Safe", "SideTable", "Drawer"),
        "DeskLamp": ("SideTable", "Dresser", "Shelf"),
        "FloorLamp": ("SideTable",),
        "KeyChain": ("SideTable", "Drawer", "Safe", "Sofa"),
        "Laptop": ("Sofa", "CoffeeTable", "ArmChair", "DiningTable"),
        "Newspaper": ("ArmChair", "CoffeeTable", "Sofa", "Drawer"),
        "Pillow": ("Sofa", "ArmChair"),
        "RemoteControl": ("Sofa", "ArmChair", "CoffeeTable", "Drawer"),
        "Statue": ("Shelf", "Dresser", "SideTable"),
        "TissueBox": ("SideTable", "CoffeeTable", "Cabinet"),
        "Vase": ("Shelf", "Dresser", "SideTable", "Cabinet"),
        "Watch": ("Drawer", "SideTable", "Safe"),
        "WateringCan": ("Cabinet", "Shelf", "SideTable"),
    },
    "bedroom": {
        "AlarmClock": ("SideTable", "Desk", "Dresser", "Shelf"),
        "BasketBall": ("Bed", "Dresser", "Desk"),
        "Book": ("Shelf", "Desk", "Bed"),
        "CD": ("Drawer", "Shelf", "Desk"),
        "CellPhone": ("Bed", "SideTable", "Desk"),
        "Cloth": ("LaundryHamper", "Drawer", "Shelf"),
        "CreditCard": ("Safe", "Drawer", "Desk"),
        "DeskLamp": ("Desk", "SideTable"),
        "KeyChain": ("Safe", "Drawer", "Dresser"),
        "Laptop": ("Desk", "Bed"),
        "Mug": ("Desk", "Shelf", "SideTable"),
        "Pen": ("Desk", "Drawer", "Shelf"),
        "Pencil": ("Drawer", "Desk", "GarbageCan"),
        "Pillow": ("Bed",),
        "Statue": ("Dresser", "Shelf"),
        "TissueBox": ("SideTable", "Shelf", "Dresser"),
        "Watch": ("SideTable", "Drawer", "Safe"),
    },
    "bathroom": {
        "Candle": ("Toilet", "CounterTop", "Shelf"),
        "Cloth": ("Cabinet", "BathtubBasin", "Cart", "CounterTop"),
        "DishSponge": ("BathtubBasin", "SinkBasin", "CounterTop"),
        "HandTowel": ("HandTowelHolder", "Cabinet", "SinkBasin"),
        "PaperTowelRoll": ("CounterTop", "Toilet"),
        "SoapBar": ("SinkBasin", "BathtubBasin", "Toilet", "Drawer"),
        "SoapBottle": ("CounterTop", "Cabinet", "Toilet"),
        "SprayBottle": ("Cabinet", "GarbageCan", "Toilet"),
        "TissueBox": ("Toilet", "CounterTop", "Shelf"),
        "ToiletPaper": ("ToiletPaperHanger", "Cabinet", "Toilet"),
    },
}

_FOOD = ("Apple", "Bread", "Egg", "Lettuce", "Potato", "Tomato")
_DISHES = ("Bowl", "Cup", "Mug", "Plate")
_COOKWARE = ("Kettle", "Pan", "Pot")
_CUTLERY = ("ButterKnife", "Fork", "Knife", "Ladle", "Spatula", "Spoon")
_SHAKERS = ("PepperShaker", "SaltShaker")
_BATH = ("Candle", "Cloth", "DishSponge", "HandTowel", "SoapBar", "SoapBottle", "SprayBottle", "TissueBox")
_PAPER = ("ToiletPaper",)
_SMALL = ("CD", "CellPhone", "CreditCard", "KeyChain", "Pen", "Pencil", "RemoteControl", "Watch")
_LARGE = ("AlarmClock", "Book", "Box", "Newspaper", "Statue", "Vase", "WateringCan")
_SEATING = ("BasketBall", "Book", "Box", "CellPhone", "Cloth", "CreditCard", "KeyChain", "Laptop", "Newspaper")
_FURNITURE = (*_SMALL, *_LARGE, "Bowl", "Cup", "Mug", "Plate", "Candle", "Cloth", "Laptop", "SprayBottle", "TissueBox")
_TABLE = (*_FOOD, *_DISHES, *_COOKWARE, *_CUTLERY, *_SHAKERS, *_BATH, *_PAPER, *_SMALL, *_LARGE, "Laptop", "WineBottle")

ACCEPTS: dict[str, frozenset[str]] = {
    receptacle: frozenset(objects)
    for receptacle, objects in {
        "ArmChair": (*_SEATING, "Pillow", "RemoteControl"),
        "BathtubBasin": ("Cloth", "DishSponge", "HandTowel", "SoapBar"),
        "Bed": ("BasketBall", "Book", "CellPhone", "Laptop", "Newspaper", "Pillow"),
        "Cabinet": (
            *_DISHES,
            *_COOKWARE,
            *_SHAKERS,
            *_BATH,
            *_PAPER,
            *("Book", "Box", "CD", "Ladle", "Newspaper", "Vase", "WateringCan", "WineBottle"),
        ),
        "Cart": (*_BATH, *_PAPER, "Mug", "Statue", "Vase"),
        "CoffeeMachine": ("Mug",),
        "CoffeeTable": _TABLE,
        "CounterTop": (*_TABLE, "PaperTowelRoll"),
        "Desk": (*_FURNITURE, "BasketBall", "SoapBottle", "DeskLamp", "WineBottle"),
        "DiningTable": _TABLE,
        "Drawer": (
            *_CUTLERY,
            *_SHAKERS,
            *_BATH,
            *_PAPER,
            *_SMALL,
            *("Book", "Newspaper", "WateringCan"),
        ),
        "Dresser": (*_FURNITURE, "BasketBall", "DeskLamp", "WineBottle"),
        "Fridge": (*_FOOD, *_DISHES, "Pan", "Pot", "WineBottle"),
        "GarbageCan": (
            *_FOOD,
            *_PAPER,
            *("CD", "Cloth", "DishSponge", "HandTowel", "Newspaper", "Pen", "Pencil", "SoapBar", "SoapBottle"),
            *("SprayBottle", "TissueBox", "WineBottle"),
        ),
        "HandTowelHolder": ("HandTowel",),
        "LaundryHamper": ("Cloth",),
        "Microwave": ("Apple", "Bowl", "Bread", "Cup", "Egg", "Mug", "Plate", "Potato", "Tomato"),
        "Safe": ("CD", "CellPhone", "CreditCard", "KeyChain", "Statue", "Vase", "Watch"),
        "Shelf": (
            *_DISHES,
            *_SHAKERS,
            *_BATH,
            *_PAPER,
            *_SMALL,
            *_LARGE,
            *("Kettle", "Pot", "DeskLamp", "WineBottle"),
        ),
        "SideTable": (*_TABLE, *LAMPS),
        "SinkBasin": (
            *("Apple", "Egg", "Lettuce", "Potato", "Tomato"),
            *_DISHES,
            *_COOKWARE,
            *_CUTLERY,
            *("Cloth", "DishSponge", "HandTowel", "SoapBar"),
        ),
        "Sofa": (*_SEATING, "Pillow", "RemoteControl"),
        "StoveBurner": _COOKWARE,
        "Toaster": (),
        "Toilet": (*_BATH, *_PAPER, "Newspaper", "PaperTowelRoll"),
        "ToiletPaperHanger": _PAPER,
    }.items()
}
