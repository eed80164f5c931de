"""Tables the skills draw from: names, cities, animals, words. Written by hand for this project."""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The words of a text, in order."""
    return tuple(text.split())


GIRLS = words(
    """
    Anna Mia Lena Emma Sara Nora Lucy Alice Clara Eva Ida Julia Kate Laura Maria Nina Olga Paula
    Rosa Sofia Tina Vera Zoe Amy Bella Cora Daisy Ella Fiona Grace Hanna Irene Jane Kira Lily Maya
    Nadia Olivia Petra Ruth Stella Tara Ursula Wendy Yara Ada Betty Carla Diana Elsa Freya Gina
    Helen Ines Joan Karen Linda Mary Nelly Pia Rita Susan Tess Vivian Marta Aisha Leila Mei Yuki
    Priya Fatima Ingrid Astrid Chloe Hazel Ivy Judy Molly Penny
    """
)
BOYS = words(
    """
    Tom Ben Max Leo Paul Peter Sam Jack Adam Alan Bob Carl Dan Eric Frank George Henry Ivan Jim
    Karl Luke Mark Nick Oscar Phil Rob Simon Tim Victor Will Anton Bruno Colin David Emil Felix
    Gus Hugo Igor John Kevin Liam Martin Noah Oliver Pedro Ralph Stefan Theo Viktor Walter Yusuf
    Arthur Boris Daniel Edgar Finn Gabriel Hans Isaac Jonas Kurt Lars Mike Nils Otto Pablo Rafael
    Sven Tobias Umar Amir Chen Hiro Ravi Omar Jorge Andre Mateo Edwin Cyrus
    """
)
CITIES = words(
    """
    Oslo Paris Rome Berlin Madrid Lisbon Vienna Prague Athens Dublin London Warsaw Helsinki
    Stockholm Copenhagen Budapest Brussels Amsterdam Bern Cairo Nairobi Lagos Tokyo Seoul Beijing
    Delhi Bangkok Hanoi Jakarta Manila Sydney Melbourne Auckland Toronto Montreal Chicago Boston
    Seattle Denver Dallas Houston Miami Lima Quito Bogota Havana Santiago Milan Naples Turin
    Venice Florence Munich Hamburg Cologne Dresden Leipzig Zurich Geneva Basel Lyon Nice Marseille
    Bordeaux Lille Porto Seville Valencia Bilbao Granada Krakow Gdansk Riga Tallinn Vilnius Minsk
    Kyiv Odessa Moscow Istanbul Ankara Tehran Baghdad Doha Dubai Mumbai Chennai Kolkata Lahore
    Karachi Dhaka Osaka Kyoto Busan Shanghai Perth Brisbane Glasgow Leeds Bristol Oxford Cardiff
    Belfast Cork Bergen Malmo Aarhus Turku Tampere Utrecht Ghent Antwerp Graz Salzburg Brno
    """
)
ANIMALS = words(
    """
    fox rabbit bear mouse cat dog bird owl frog duck horse goat hedgehog squirrel turtle penguin
    lion tiger elephant monkey wolf deer swan goose pony lamb otter beaver crow bee
    """
)
PLACES = words(
    """
    forest garden village valley meadow castle cave farm city harbour mountain island river lake
    desert park town mill field beach
    """
)
WORDS = words(
    """
    apple bread chair table house garden window flower river summer winter spring autumn school
    teacher pencil paper letter bottle butter cheese orange banana cherry lemon tomato potato
    carrot onion water coffee sugar pepper silver golden yellow purple green black white brown
    little happy clever quiet gentle strong brave kind slow quick morning evening night moon star
    cloud rain snow wind storm thunder mountain valley forest meadow island harbour ocean beach
    bridge street market castle village city farm train boat ship plane wheel engine music piano
    guitar violin drum song dance paint picture story book page word number question answer friend
    family mother father sister brother uncle cousin baby doctor baker farmer sailor king queen
    prince knight dragon giant wizard magic mirror candle lamp clock basket box bag hat coat shoe
    glove scarf ring crown key door roof wall floor stone sand grass tree leaf root branch seed
    fox rabbit bear mouse cat dog bird owl frog duck horse goat hedgehog squirrel turtle penguin
    lion tiger elephant monkey wolf deer swan goose
    """
)
JOBS = words(
    """
    baker teacher doctor farmer sailor painter nurse pilot singer writer cook driver
    """
)
COLOURS = words(
    """
    red blue green yellow black white brown purple orange pink grey
    """
)
PRODUCTS = words(
    """
    apple book lamp chair table pen bag clock cup hat coat shoe box bottle candle
    """
)
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are FolovLLM's demo model.",
    "You are a friendly assistant. Answer briefly.",
    "Answer in one sentence.",
    "Be brief and kind.",
)
