"""What things in generated rooms are called: in ScanNet's category table, in S3DIS, and in everyday words."""

from __future__ import annotations

from typing import NamedTuple


class Category(NamedTuple):
    """``number``: id in ScanNet's table; ``s3dis``: class word of the annotation file; ``words``: what people say."""

    name: str  # raw_category
    number: int
    category: str
    nyu40: int
    s3dis: str
    words: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NYU40_NAMES = tuple(
    name.replace("_", " ")
    for name in _words(
        "unlabelled wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves "
        "curtain dresser pillow mirror floor_mat clothes ceiling books refrigerator television paper towel "
        "shower_curtain box whiteboard person night_stand toilet sink lamp bathtub bag otherstructure otherfurniture "
        "otherprop"
    )
)

EIGEN13_NAMES = _words("Bed Books Ceiling Chair Floor Furniture Objects Picture Sofa Table TV Wall Window")
_EIGEN13 = _words("0 12 5 6 1 4 9 10 12 13 6 8 6 13 10 6 13 6 7 7 5 7 3 2 6 11 7 7 7 7 7 7 6 7 7 7 7 7 7 6 7")
"""By nyu40 id: the number, from 1, of the coarse class."""

S3DIS_CLASSES = _words("ceiling floor wall beam column window door table chair sofa bookcase board clutter")

_ROWS = """
wall|1|wall|1|wall|wall
floor|3|floor|2|floor|floor, ground
ceiling|41|ceiling|22|ceiling|ceiling
column|120|column|38|column|column, pillar
pillar|191|pillar|38|column|pillar, column
wood beam|1310|wood beam|38|beam|beam, wooden beam
window|16|window|9|window|window, window pane
door|5|door|8|door|door, wooden door
doorframe|161|doorframe|8|door|door frame, doorway
blinds|86|blinds|13|clutter|blinds, window shade
curtain|21|curtain|16|clutter|curtain, drapes
shower curtain|55|shower curtain|28|clutter|shower curtain, bath curtain
cabinet|7|cabinet|3|clutter|cabinet, cupboard
kitchen cabinet|29|kitchen cabinet|3|clutter|kitchen cabinet, cupboard
file cabinet|75|file cabinet|3|clutter|file cabinet, drawer cabinet
bathroom vanity|1164|bathroom vanity|3|clutter|bathroom vanity, washstand
bed|11|bed|4|clutter|bed, double bed
chair|2|chair|5|chair|chair, seat
office chair|10|office chair|5|chair|office chair, swivel chair
armchair|23|armchair|5|chair|armchair, easy chair
couch|6|couch|6|sofa|couch, sofa
table|4|table|7|table|table, tabletop
coffee table|24|coffee table|7|table|coffee table, low table
end table|44|end table|7|table|end table, side table
dining table|45|dining table|7|table|dining table, table
desk|9|desk|14|table|desk, work table
bookshelf|18|bookshelf|10|bookcase|bookshelf, bookcase
shelf|8|shelf|15|bookcase|shelf, rack
picture|15|picture|11|clutter|picture, framed picture
painting|1218|painting|11|clutter|painting, picture
poster|1188|poster|11|clutter|poster, print
counter|35|counter|12|clutter|counter, worktop
kitchen counter|159|kitchen counter|12|clutter|kitchen counter, worktop
bathroom counter|1156|bathroom counter|12|clutter|bathroom counter, washstand top
dresser|36|dresser|17|clutter|dresser, chest of drawers
pillow|13|pillow|18|clutter|pillow, cushion
mirror|71|mirror|19|clutter|mirror, looking glass
mat|140|mat|20|clutter|mat, floor mat
clothes|32|clothes|21|clutter|clothes, laundry
book|22|book|23|clutter|book, volume
books|22|book|23|clutter|books, row of books
refrigerator|27|refrigerator|24|clutter|refrigerator, fridge
mini fridge|165|mini fridge|24|clutter|mini fridge, small refrigerator
cooler|1062|cooler|24|clutter|cooler, ice box
tv|33|tv|25|clutter|television, flat screen
towel|31|towel|27|clutter|towel, bath towel
box|26|box|29|clutter|box, cardboard box
whiteboard|52|whiteboard|30|board|whiteboard, dry erase board
blackboard|89|blackboard|38|board|blackboard, chalkboard
nightstand|34|nightstand|32|clutter|nightstand, bedside table
toilet|17|toilet|33|clutter|toilet, toilet bowl
sink|14|sink|34|clutter|sink, basin
lamp|28|lamp|35|clutter|lamp, light
bathtub|42|bathtub|36|clutter|bathtub, tub
bag|47|bag|37|clutter|bag, tote bag
light|105|light|38|clutter|ceiling light, lamp
stove|62|stove|38|clutter|stove, cooker
range hood|342|range hood|38|clutter|range hood, extractor hood
dishwasher|136|dishwasher|38|clutter|dishwasher, kitchen appliance
trash can|56|trash can|39|clutter|trash can, waste basket
recycling bin|97|recycling bin|39|clutter|recycling bin, bin
radiator|96|radiator|39|clutter|radiator, heater
ottoman|67|ottoman|39|clutter|ottoman, pouf
bench|68|bench|39|clutter|bench, seat
wardrobe cabinet|1177|wardrobe |39|clutter|wardrobe, closet
water cooler|177|water cooler|39|clutter|water cooler, water dispenser
washing machine|70|washing machine|39|clutter|washing machine, washer
monitor|19|monitor|40|clutter|monitor, computer screen
keyboard|46|keyboard|40|clutter|keyboard, computer keyboard
laptop|77|laptop|40|clutter|laptop, notebook computer
telephone|101|telephone|40|clutter|telephone, phone
printer|50|printer|40|clutter|printer, office printer
copier|72|copier|40|clutter|copier, photocopier
plant|40|plant|40|clutter|plant, potted plant
backpack|48|backpack|40|clutter|backpack, rucksack
microwave|59|microwave|40|clutter|microwave, microwave oven
bottle|65|bottle|40|clutter|bottle, flask
cup|130|cup|40|clutter|cup, mug
clock|103|clock|40|clutter|clock, wall clock
toilet paper|49|toilet paper|40|clutter|toilet paper, tissue roll
shoes|63|shoe|40|clutter|shoes, sneakers
stool|38|stool|40|chair|stool, bar stool
object|1163|object|40|clutter|object, thing
"""


def _category(row: str) -> Category:
    name, number, category, nyu40, s3dis, words = row.split("|")
    return Category(name, int(number), category, int(nyu40), s3dis, tuple(words.split(", ")))


CATEGORIES: tuple[Category, ...] = tuple(_category(row) for row in _ROWS.strip().splitlines())
INDEX = {category.name: k for k, category in enumerate(CATEGORIES)}
"""From a raw category to its place in ``CATEGORIES``, which is the label that primitives carry."""

TSV_COLUMNS = _words(
    "id raw_category category count nyu40id eigen13id nyuClass nyu40class eigen13class ModelNet40 ModelNet10 "
    "ShapeNetCore55 synsetoffset wnsynsetid wnsynsetkey mpcat40 mpcat40index"
)


def category_table() -> str:
    """``scannetv2-labels.combined.tsv`` with the rows that generated rooms need: its 17 columns, the last 8 empty."""
    lines = ["\t".join(TSV_COLUMNS)]
    for c in CATEGORIES:
        nyu, eigen = NYU40_NAMES[c.nyu40], int(_EIGEN13[c.nyu40])
        row = [c.number, c.name, c.category, 1, c.nyu40, eigen, c.category.strip(), nyu, EIGEN13_NAMES[eigen - 1]]
        lines.append("\t".join(map(str, row + [""] * 8)))
    return "\n".join(lines) + "\n"
