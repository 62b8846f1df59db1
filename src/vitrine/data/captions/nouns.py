"""Which words of a caption name something, by plain rules over a list of names.

Rules, in this order:

1. Words are compared in lower case, without the punctuation around them; a hyphen inside a word counts as a blank, so
   that "fire-hydrant" is "fire hydrant" and "person-sized" no person. A possessive ("the dog's bowl") names nothing.
2. The longest phrase wins from left to right, and no phrase crosses punctuation: a "hot dog" is no dog.
3. Directly after a person, a word that is also a verb is one: "a man skis".
4. A name directly before another one only describes it: a "pizza box" is no pizza, of "carrot cake" only cake is there.
5. A name that is also a colour counts only after an article or a number, and before punctuation, the end, a preposition
   or "is": "an orange on a plate", but not "an orange cat" nor "orange and white".

What is counted is the head of a phrase, its last word or the one before "of" ("glass of wine").
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

_ENDS = re.compile(r"^[\W_]+|[\W_]+$")
_BEFORE_COLOUR = frozenset(
    {"a", "an", "the", "one", "two", "three", "half", "each", "every", "single", "peeled", "sliced"}
)
_AFTER_COLOUR = frozenset(
    {
        "in",
        "on",
        "at",
        "of",
        "with",
        "from",
        "by",
        "near",
        "next",
        "under",
        "over",
        "behind",
        "beside",
        "between",
        "inside",
    }
    | {"into", "off", "is", "that", "which"}
)


@dataclass(frozen=True)
class Lexicon:
    """What can be named in pictures of one kind.

    Attributes:
        names: by phrase in lower case, the kind of thing that it names; "" where it is another thing, so that none of
            its words counts.
        selectors: words before a name that say which of several things it is: colours.
        fillers: words that may stand between those and the name: sizes.
        verbs: names that are verbs directly after one of the kind "person".
        colours: names that are also colours.
    """

    names: Mapping[str, str]
    selectors: frozenset[str] = frozenset()
    fillers: frozenset[str] = frozenset()
    verbs: frozenset[str] = frozenset()
    colours: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Name:
    """A name in a caption.

    Attributes:
        index: of its head among the caption's words.
        phrase: as it is in the lexicon.
        kind: of thing.
        selectors: those of the lexicon that stand before it, in reading order.
    """

    index: int
    phrase: str
    kind: str
    selectors: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Span:
    start: int
    stop: int
    phrase: str
    kind: str


def find_names(words: Sequence[str], lexicon: Lexicon) -> tuple[Name, ...]:
    """The names in a caption, by the rules of this module.

    Args:
        words: the caption's whole words, punctuation attached.
        lexicon: what can be named.
    """
    bare = [bare_word(word) for word in words]
    open_end = [not _ends_phrase(words, place) for place in range(len(words))]
    names: list[Name] = []
    spans = _spans(bare, open_end, lexicon)
    verb = None
    for span, following in zip_longest(spans, spans[1:]):
        is_verb, verb = span is verb, None
        touching = following is not None and following.start == span.stop and open_end[span.stop - 1]
        if touching and span.kind == "person" and following is not None and following.phrase in lexicon.verbs:
            verb, touching = following, False
        if is_verb or touching or not span.kind:
            continue
        if span.phrase in lexicon.colours and not _is_thing(bare, open_end, span):
            continue
        parts = bare[span.start : span.stop]
        head = span.start + parts.index("of") - 1 if "of" in parts[1:] else span.stop - 1
        names.append(Name(head, span.phrase, span.kind, _selectors_before(bare, open_end, span.start, lexicon)))
    return tuple(names)


def bare_word(word: str) -> str:
    """A word in lower case, without the punctuation around it, hyphens as blanks."""
    return " ".join(_ENDS.sub("", word.lower()).replace("’", "'").replace("-", " ").replace("‐", " ").split())


def _ends_phrase(words: Sequence[str], place: int) -> bool:
    """Whether punctuation, or the end, follows a word."""
    if place + 1 == len(words):
        return True
    return not words[place][-1:].isalnum() or not words[place + 1][:1].isalnum()


def _spans(bare: Sequence[str], open_end: Sequence[bool], lexicon: Lexicon) -> list[_Span]:
    longest = max((phrase.count(" ") + 1 for phrase in lexicon.names), default=0)
    spans, start = [], 0
    while start < len(bare):
        stop = start
        while stop < len(bare) and stop - start < longest:
            stop += 1
            if not open_end[stop - 1]:
                break
        while stop > start and " ".join(bare[start:stop]) not in lexicon.names:
            stop -= 1
        if stop > start:
            phrase = " ".join(bare[start:stop])
            spans.append(_Span(start, stop, phrase, lexicon.names[phrase]))
        start = max(stop, start + 1)
    return spans


def _is_thing(bare: Sequence[str], open_end: Sequence[bool], span: _Span) -> bool:
    if span.start == 0 or bare[span.start - 1] not in _BEFORE_COLOUR:
        return False
    return not open_end[span.stop - 1] or bare[span.stop] in _AFTER_COLOUR


def _selectors_before(bare: Sequence[str], open_end: Sequence[bool], start: int, lexicon: Lexicon) -> tuple[str, ...]:
    selectors: list[str] = []
    place = start - 1
    while place >= 0 and open_end[place] and bare[place] in lexicon.selectors | lexicon.fillers:
        if bare[place] in lexicon.selectors:
            selectors.insert(0, bare[place])
        place -= 1
    return tuple(selectors)


PERSON = "person"

# Singulars, separated by commas; the plural is regular unless it follows a stroke; "=" has none.
_NOUNS: Mapping[str, str] = {
    PERSON: (
        "person/people, persons=, man/men, woman/women, boy, girl, child/children, kid, lady, guy, "
        "gentleman/gentlemen, baby, toddler, adult, teenager, teen, player, tennis player, baseball player, soccer "
        "player, batter, catcher, umpire, skier, snowboarder, snow boarder, skateboarder, skate boarder, skater, "
        "surfer, rider, cyclist, bicyclist, biker, motorcyclist, passenger, pedestrian, chef, officer, police "
        "officer, policeman/policemen, cop, fireman/firemen, soldier, worker, student, teacher, farmer, "
        "fisherman/fishermen, bride, jockey, athlete, golfer, swimmer, sailor, mother, father, mom, dad, son, "
        "daughter, brother, sister, husband, wife/wives, friend, businessman/businessmen, driver, waiter, "
        "waitress, referee, spectator, onlooker, bystander, tourist, vendor, bicycle rider, bike rider"
    ),
    "bicycle": "bicycle, bike",
    "car": "car, automobile, taxi, taxi cab, cab, suv, sedan, minivan, jeep, police car",
    "motorcycle": "motorcycle, motorbike, motor bike, dirt bike, moped, scooter, motor scooter, vespa, motor cycle",
    "airplane": "airplane, plane, aeroplane, aircraft=, jet, airliner, jetliner, biplane, seaplane, air plane",
    "bus": "bus, busses=, minibus",
    "train": "train, locomotive, train car, train engine, steam engine",
    "truck": "truck, pickup, pick up truck, lorry, fire truck, firetruck, fire engine",
    "boat": "boat, ship, sailboat, canoe, kayak, yacht, ferry, rowboat, motorboat, speedboat, gondola",
    "traffic light": "traffic light, traffic signal, stoplight, stop light",
    "fire hydrant": "fire hydrant, hydrant, fire plug",
    "stop sign": "stop sign, stopsign",
    "parking meter": "parking meter",
    "bench": "bench, park bench",
    "bird": (
        "bird, seagull, sea gull, gull, pigeon, duck, duckling, goose/geese, parrot, owl, eagle, swan, pelican, "
        "hawk, sparrow, rooster, hen, penguin, flamingo, crow, peacock, ostrich, hummingbird, heron, parakeet, "
        "dove, robin, stork, vulture"
    ),
    "cat": "cat, kitten, kitty, feline",
    "dog": (
        "dog, puppy, pup, doggy, bulldog, retriever, terrier, poodle, dachshund, corgi, chihuahua, beagle, "
        "dalmatian, labrador, german shepherd"
    ),
    "horse": "horse, pony, foal, stallion",
    "sheep": "sheep=, lamb, ewe",
    "cow": "cow, cattle=, calf/calves, bull, ox/oxen, heifer",
    "elephant": "elephant",
    "bear": "bear, polar bear, grizzly bear, grizzly, bear cub",
    "zebra": "zebra",
    "giraffe": "giraffe",
    "backpack": "backpack, back pack, rucksack, knapsack, book bag, bookbag",
    "umbrella": "umbrella, parasol",
    "handbag": "handbag, hand bag, purse",
    "tie": "tie, necktie, neck tie, bowtie, bow tie",
    "suitcase": "suitcase, suit case, luggage=, baggage=",
    "frisbee": "frisbee, flying disc",
    "skis": "skis=, ski",
    "snowboard": "snowboard, snow board",
    "sports ball": "sports ball, ball",
    "kite": "kite",
    "baseball bat": "baseball bat, bat",
    "baseball glove": "baseball glove, catcher glove, mitt, baseball mitt",
    "skateboard": "skateboard, skate board",
    "surfboard": "surfboard, surf board",
    "tennis racket": "tennis racket, tennis racquet, racket, racquet",
    "bottle": "bottle",
    "wine glass": "wine glass, wineglass, glass of wine/glasses of wine",
    "cup": "cup, mug, cup of coffee/cups of coffee, cup of tea/cups of tea",
    "fork": "fork",
    "knife": "knife/knives",
    "spoon": "spoon",
    "bowl": "bowl",
    "banana": "banana",
    "apple": "apple",
    "sandwich": "sandwich, hamburger, burger, cheeseburger, panini=",
    "orange": "orange, orange slice",
    "broccoli": "broccoli=",
    "carrot": "carrot",
    "hot dog": "hot dog, hotdog",
    "pizza": "pizza",
    "donut": "donut, doughnut",
    "cake": "cake, cupcake, cup cake, cheesecake, birthday cake, wedding cake",
    "chair": "chair, armchair, arm chair",
    "couch": "couch, sofa, loveseat, love seat",
    "potted plant": "potted plant, pot plant, house plant, houseplant",
    "bed": "bed, bunk bed",
    "dining table": "dining table, dinner table, kitchen table, dining room table, table",
    "toilet": "toilet, toilet bowl, urinal, commode",
    "tv": (
        "tv, television, tv set, television set, tv screen, television screen, monitor, computer monitor, computer "
        "screen, flat screen tv"
    ),
    "laptop": "laptop, laptop computer, notebook computer, macbook",
    "mouse": "mouse/mice, computer mouse/computer mice",
    "remote": "remote, remote control, wii remote, wii controller, wiimote, game controller",
    "keyboard": "keyboard, computer keyboard",
    "cell phone": "cell phone, cellphone, mobile phone, phone, smartphone, smart phone, iphone, cellular phone",
    "microwave": "microwave, microwave oven",
    "oven": "oven, stove, stovetop, stove top",
    "toaster": "toaster",
    "sink": "sink, washbasin, wash basin",
    "refrigerator": "refrigerator, fridge, refridgerator",
    "book": "book",
    "clock": "clock, alarm clock",
    "vase": "vase",
    "scissors": "scissors=",
    "teddy bear": "teddy bear, teddy, stuffed bear, toy bear",
    "hair drier": "hair drier, hair dryer, hairdryer, hairdrier, blow dryer, blow drier",
    "toothbrush": "toothbrush, tooth brush",
}

# Phrases that end or begin like a name and are another thing, or a part of one.
_OTHER_THINGS = """
    bus stop, street light, toaster oven, coffee table, end table, side table, pool table, picnic table, bedside
    table, changing table, water table, cable car, street car, trolley car, box car, jet ski, rocking horse,
    horse back, flower bed, truck bed, river bed, dog bed, toilet paper, oven mitt, chair lift, ski lift, ski
    run, ski jump, ski pole, dvd player, cd player, record player, mp3 player, rubber duck, railroad tie, mickey
    mouse, fork in the road, toy store, tennis ball machine, sea horse, sea lion, lady bug, car seat, bird bath
"""

# Nouns that make of a name before them a mere description: "train station", "clock tower", "apple tree". None of them
# is a verb that a person, an animal or a thing before it could do.
_HEADS = """
    area, areas, bag, bags, bar, barn, boarding, booth, boots, box, boxes, bread, cage, cages, carriage,
    carriages, cart, case, cases, cloth, competition, computer, computers, cord, costume, court, crossing,
    depot, dock, door, doors, drawn, dye, enclosure, equipment, event, exhibit, faucet, feeder, field, food,
    game, gear, goggles, holder, hot tub, house, houses, island, jacket, jackets, juice, lamp, lamps, lane,
    lanes, lid, light, lights, location, lodge, logo, magnets, market, mask, match, meter, meters, nest, office,
    pad, painting, pants, paper, park, pasture, path, pattern, peel, pen, pie, pole, poles, poster, print, race,
    rack, racks, ramp, resort, room, rooms, rug, salad, sauce, sculpture, seat, seats, sheet, sheets, shelf,
    shelves, shirt, shop, shops, show, skin, slope, slopes, soup, stable, stall, station, stations, statue,
    statues, store, stores, stroller, suit, surfing, tag, tags, tank, tennis, terminal, tire, tires, tour,
    tower, towers, toy, toys, track, tracks, trail, trailer, trailers, tree, trees, trick, tricks, tub, wheel,
    wheels, window, windows, yard
"""

VERBS = frozenset({"ski", "skis", "skateboard", "skateboards", "snowboard", "snowboards", "tie", "ties", "bat", "bats"})
"""Names that are verbs directly after a person: "a man skis down a slope"."""

COLOURS = frozenset({"orange"})
"""Names that are colours unless they stand between an article or number and the end of their phrase."""


@cache
def coco_phrases() -> Mapping[str, str]:
    """Every phrase, lower case, and the category that it names; "" where it names none and keeps its words from it."""
    phrases = dict.fromkeys(_split(_HEADS), "")
    phrases |= {form: "" for other in _split(_OTHER_THINGS) for form in (other, plural(other))}
    return phrases | {phrase: category for category in _NOUNS for phrase in names_of(category)}


@cache
def names_of(category: str) -> tuple[str, ...]:
    """What captions call a category, lower case, singulars and plurals, its own name among them.

    One that COCO does not have is called by its name and the regular plural.
    """
    name = " ".join(category.lower().replace("_", " ").split())
    nouns = _split(_NOUNS.get(name, name))
    forms = [form for noun in nouns for form in _forms(noun)]
    return tuple(dict.fromkeys(form for form in forms if form))


def plural(noun: str) -> str:
    """The regular plural: "boxes", "puppies", "benches", "dogs"."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def _forms(noun: str) -> tuple[str, ...]:
    if noun.endswith("="):
        return (noun[:-1],)
    singular, _, irregular = noun.partition("/")
    return singular, irregular or plural(singular)


def _split(table: str) -> list[str]:
    return [" ".join(entry.split()) for entry in table.split(",")]
