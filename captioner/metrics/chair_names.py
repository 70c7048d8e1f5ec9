"""The words for COCO's 80 categories by which CHAIR reads captions: a table of our own."""

import re

# Each category with its names and their common misspellings. A plural is formed from the last word
# or follows a slash. Words that often mean something else are left out: plant, bag, board, screen,
# computer, desk, seat, van, trolley, baseball, glass, chicken, and male and female (adjectives).
NAMES = """
person: person/people, persons, man, woman, boy, girl, child/children, kid, baby, infant, toddler,
    lady, guy, dude, gentleman, lad, youth, teen, teenager, someone, somebody, mother, father, mom,
    dad, daddy, mommy, parent, son, daughter, brother, sister, sibling, wife, husband, grandmother,
    grandfather, grandma, grandpa, bride, bridesmaid, groomsman, player, batter, catcher, umpire,
    pitcher, hitter, batsman, baseman, outfielder, infielder, base runner, baserunner, referee,
    goalie, athlete, opponent, teammate, swimmer, runner, jogger, skater, skateboarder,
    skate boarder, snowboarder, snow boarder, boarder, skier, surfer, surf boarder, wind surfer,
    windsurfer, kite surfer, kitesurfer, kite boarder, kiteboarder, paddle boarder, paddleboarder,
    wakeboarder, parasailer, paraglider, kayaker, rider, jockey, cyclist, bicyclist, bicycler,
    biker, motorcyclist, driver, bus driver, truck driver, taxi driver, train conductor,
    train engineer, dog walker, pedestrian, hiker, backpacker, spectator, audience, crowd, onlooker,
    bystander, traveler, shopper, customer, patron, visitor, beachgoer, sunbather, worker, employee,
    businessman, businesswoman, policeman, policewoman, police officer, officer, cop, fireman,
    firefighter, fire fighter, soldier, sailor, student, teacher, doctor, nurse, dentist, waiter,
    waitress, bartender, barista, chef, baker, vendor, salesman, farmer, shepherd, fisherman,
    cowboy, cow boy, cowgirl, clown, performer, musician, singer, dancer, photographer, cameraman,
    workman, repairman, serviceman, hot dog vendor, santa claus, hipster, monk, nun, priest, santa,
    adults, humans, human being, males, females, passengers, individuals, friends, commuters,
    tourists, diners, groom/groom, couple, family, wait staff, kite skier, womens, mens
bicycle: bicycle, bike, cycle, bicylce, unicycle, tricycle
car: car, automobile, sedan, suv, hatchback, taxi, taxicab, taxi cab, cab, jeep, limo, limousine,
    station wagon, minivan, mini van, minicooper
motorcycle: motorcycle, motorbike, motor bike, motor cycle, dirt bike, dirtbike, moped, scooter,
    motor scooter, motorscooter, vespa, quad bike
airplane: airplane, air plane, aeroplane, plane, aircraft/aircraft, airliner, air liner, jet,
    jetliner, jet liner, biplane, bi plane, seaplane, sea plane, passenger plane, passenger jet
bus: bus/buses, busses, minibus, mini bus, double decker, motor coach, motorcoach, trolley bus
train: train, locomotive, train engine, train car, steam engine, caboose, monorail, tram, tram car,
    streetcar, street car, trolley car, cable car, railcar, rail car, railroad car, railway car,
    subway car, boxcar, box car, freight car, passenger car
truck: truck, firetruck, fire engine, pickup, lorry, semi truck, semi trailer, semis,
    tractor trailer, big rig, flatbed, 18 wheeler, eighteen wheeler, truck bed, bed of a truck,
    bed of the truck, back of a pickup
boat: boat, ship, sailboat, sail boat, rowboat, row boat, motorboat, motor boat, speedboat, canoe,
    kayak, ferry, ferryboat, ferry boat, yacht, raft, gondola, tugboat, tug, houseboat, house boat,
    cruise liner, barge, dinghy, catamaran, schooner
traffic light: traffic light, traffic signal, stoplight, stop light, signal light, trafficlight,
    red light, traffic lamp, street light, streetlight
fire hydrant: fire hydrant, hydrant, firehydrant, fire plug
stop sign: stop sign, stopsign
parking meter: parking meter, meter
bench: bench, bus bench, pew
bird: bird, duck, duckling, goose/geese, gosling, swan, gull, seagull, sea gull, pigeon, dove, owl,
    parrot, parakeet, cockatoo, cockatiel, macaw, eagle, hawk, falcon, vulture, crow, raven, magpie,
    robin, sparrow, finch, woodpecker, hummingbird, humming bird, blue jay, blackbird, bluebird,
    penguin, flamingo, ostrich, emu, peacock, pelican, heron, egret, stork, ibis, cormorant, puffin,
    rooster, hen, toucan, waterfowl, fowl, cattle egret
cat: cat, kitten, kitty, kitty cat, feline, tabby
dog: dog, puppy, pup, doggy, canine, hound, poodle, labrador, retriever, terrier, bulldog, bull dog,
    chihuahua, beagle, dachshund, collie, german shepherd, german shepard, dalmatian, corgi, husky,
    pug, rottweiler, pit bull, pitbull, spaniel, schnauzer, great dane, mutt, sheepdog, sheep dog,
    shih tzu, pomeranian, doberman/dobermans
horse: horse, pony, foal, colt, stallion, mare, horseback, horse back
sheep: sheep/sheep, lamb, ram, ewe, sheeps
cow: cow, cattle/cattle, bull, calf/calves, ox/oxen, heifer, bovine, longhorn
elephant: elephant, elephant calf/elephant calves
bear: bear, bear cub, cub, grizzly, panda
zebra: zebra
giraffe: giraffe, giraff, giraffee, girafee, giraffe calf/giraffe calves
backpack: backpack, back pack, rucksack, knapsack, book bag, bookbag
umbrella: umbrella, parasol, unbrella
handbag: handbag, hand bag, purse, pocketbook, shoulder bag, tote bag
tie: tie, necktie, neck tie, bowtie, bow tie
suitcase: suitcase, suit case, luggage/luggage, baggage/baggage, piece of luggage/pieces of luggage,
    luggage bag, luggage case
frisbee: frisbee, frisby, frizbee, flying disc, disc, flying disk, disk
skis: ski, water ski, snow ski
snowboard: snowboard, snow board
sports ball: sports ball, ball, tennis ball, soccer ball, basket ball, beach ball
kite: kite, bird kite, airplane kite, plane kite
baseball bat: baseball bat, bat
baseball glove: baseball glove, baseball mitt, mitt, catchers mitt, catchers glove
skateboard: skateboard, skate board, longboard
surfboard: surfboard, surf board, surfing board, boogie board, body board, bodyboard, paddle board,
    paddleboard
tennis racket: tennis racket, tennis racquet, tennis raquet, racket, racquet, raquet
bottle: bottle
wine glass: wine glass, wineglass, wine goblet, champagne glass, champagne flute, glass of wine,
    glasses of wine, glass of red wine, glass of white wine, glasses of red wine, goblet
cup: cup, mug, teacup, tea cup, coffee cup, coffee mug, tumbler, drinking glass, glass of water,
    glass of milk, glass of juice, glass of orange juice, glass of beer, glass of tea,
    glasses of water, glasses of beer
fork: fork
knife: knife/knives, cake knife/cake knives
spoon: spoon, teaspoon, tablespoon
bowl: bowl
banana: banana, bananna
apple: apple
sandwich: sandwich, sandwhich, sandwitch, burger, hamburger, cheeseburger, sub sandwich, panini,
    grilled cheese, hoagie, blt
orange: oranges, mandarin orange, navel orange, orange slice, orange wedge, orange peel,
    slice of orange/slices of orange, sliced orange, peeled orange, half an orange/half oranges
broccoli: broccoli, brocolli, brocoli, broccolli
carrot: carrot
hot dog: hot dog, hotdog, hot dog bun, chili dog, chilli dog, frankfurter, wiener, weiner
pizza: pizza, pizza pie
donut: donut, doughnut, do nut, dough nut
cake: cake, cupcake, cup cake, cheesecake, cheese cake, shortcake, carrot cake, banana cake
chair: chair, armchair, arm chair, recliner, stool, barstool, highchair, baby chair
couch: couch, sofa, loveseat, love seat, settee, futon
potted plant: potted plant, pot plant, houseplant, house plant, potted tree, potted flower,
    potted palm, flower pot, flowerpot, plant pot
bed: bed, bunkbed
dining table: table, dining table, dinner table, table top, tabletop
toilet: toilet, toilet seat, toilet bowl, toilet tank, toilet lid, commode, urinal
tv: tv, television, television set, tv set, tv screen, television screen, flat screen, flatscreen,
    tv monitor, monitor, computer monitor, computer screen
laptop: laptop, lap top, laptop computer, laptop keyboard, apple laptop, notebook computer, netbook,
    macbook, mac book, apple macbook, chromebook
mouse: mouse/mice, apple mouse, mouses, computer mouse/computer mice, computer mouses
remote: remote, remote control, remote controller, tv remote, television remote, wii remote,
    wii remote control, wii mote, wiimote, wii controller, game controller, controller
keyboard: keyboard, computer keyboard, apple keyboard
cell phone: cell phone, cellphone, phone, mobile phone, smartphone, smart phone, iphone, i phone,
    apple iphone, apple phone, camera phone
microwave: microwave, microwave oven, micro wave
oven: oven, stove, stovetop, stove top, stove top oven, toaster oven, pizza oven
toaster: toaster
sink: sink, washbasin, wash basin
refrigerator: refrigerator, fridge, refridgerator, freezer, fridge freezer
book: book, textbook, cookbook, paperback, phone book, telephone book
clock: clock, grandfather clock
vase: vase
scissors: scissor
teddy bear: teddy bear, teddybear, teddy, stuffed bear, toy bear, plush bear, stuffed animal,
    stuffed toy bear, stuffed animal bear, teddie bear, tedy bear, stuff bear
hair drier: hair drier, hair dryer, hairdryer, hairdrier, blow dryer, blow drier, blowdryer
toothbrush: toothbrush, tooth brush
"""
# "orange" is a fruit in the plural, in the names above, and in "an orange" before one of these.
ORANGE = "./on/in/is/with/that/next/sitting/sits/cut/and a/and an".split("/")

# Phrases that contain a name of one of the 80 categories and mean none of them.
OTHERS = """
aircraft carrier, airplane hangar, apple cider, apple computer, apple desktop, apple device,
apple juice, apple logo, apple monitor, apple pie, apple product, apple sauce, apple store,
apple tree, apple tv, baby animal, baby blue, baby car seat, baby carriage, baby cart, baby chick,
baby clothes, baby crib, baby deer, baby food, baby goat, baby monkey, baby pig, baby powder,
baby seat, baby shower, baby stroller, baggage area, baggage carousel, baggage claim, ball cap,
ball court, ball field, ball game, ball gown, ball of yarn, ball park, banana boat, banana bread,
banana leaf/banana leaves, banana muffin, banana pudding, banana split, bear claw, bed of flowers,
bed of lettuce, bed of rice, bed room, bed sheet, bed spread, bicycle helmet, bicycle lane,
bicycle path, bicycle rack, bicycle shop, bicycle stand, big apple, bike helmet, bike lane,
bike path, bike rack, bike shop, bike stand, bike trail, billiard table, bird 's eye, bird bath,
bird cage, bird feeder, bird food, bird house, bird nest, bird seed, birds eye, boat dock,
boat house, boat launch, boat ramp, boat yard, book case, book shelf/book shelves, book stand,
book store, bottle cap, bottle opener, bottle top, bowling ball, boys room, bull 's eye, bull ring,
bumper car, burger king, bus depot, bus lane, bus shelter, bus station, bus stop, bus terminal,
cab of a truck, cake mix, cake pan, cake plate, cake stand, car keys, car park, car seat, car wash,
care bear, carousel horse, cat bed, cat food, cat house, cat litter, cat tower, cat tree, cat walk,
cd player, chair lift, changing table, cheese ball, chef 's hat, chef hat, chicago cub,
christmas ball, clock radio, compact disc, corn dog, couple a, couple of, cow bell, cow hide,
cow skin, cowboy boot, cowboy hat, crab cake, crystal ball, cup board, cup holder, desk phone,
disc brake, disc golf, disc jockey, disc man, disco ball, dog bed, dog biscuit, dog collar,
dog crate, dog door, dog food, dog house, dog leash, dog park, dog show, dog sled, dog tag,
dog treat, doggy bag, doggy door, donut shop, donut store, dough ball, doughnut shop, duck sauce,
duck tape, duct tape, dvd player, electric keyboard, electronic keyboard, elephant ear,
exercise bike, family of, family room, family style, farmer 's market, farmers market, fish bowl,
flower bed, foot stool, fork in the road, fork lift, fridge magnet, fruit bat, garden bed,
glass pitcher, goose neck, grassy plane, gravy boat, gummy bear, hair ball, hand truck, hello kitty,
her baby, horse barn, horse shoe, horse stable, horse stall, horse trailer, hot dog cart,
hot dog stand, hot dog truck, hot mitt, ice cream sandwich, its baby, its mother, jet black,
jet engine, jet ski, jet stream, jet way, kitty corner, kitty litter, koala, koala bear,
ladies room, lamb chop, land line phone, landline phone, leg of lamb, lion cub, luggage area,
luggage carousel, luggage claim, luggage compartment, luggage rack, meat ball, media player,
men 's bathroom, men 's restroom, men 's room, mens bathroom, mens restroom, mens room,
mickey mouse, milk pitcher, minnie mouse, model airplane, model boat, model plane, model ship,
model train, mom and baby, mother and baby, mother and her baby, mother and its baby,
motorcycle helmet, motorcycle jacket, mouse pad, mp3 player, music player, musical keyboard,
office phone, orange juice, oven mitt, pan cake, paper airplane, paper plane, pay phone,
pedestrian area, pedestrian bridge, pedestrian crossing, pedestrian crosswalk, pedestrian light,
pedestrian sign, pedestrian signal, pedestrian walk way, pedestrian walkway, pet bed, phone booth,
phone line, phone pole, piano keyboard, piano stool, pickup game, pine apple, ping pong table,
pitch fork, pitcher 's mound, pitcher of beer, pitcher of juice, pitcher of milk, pitcher of water,
pitchers mound, pizza box, pizza cutter, pizza dough, pizza holder, pizza hut, pizza paddle,
pizza pan, pizza parlor, pizza peel, pizza place, pizza restaurant, pizza sauce, pizza shop,
pizza slicer, pizza stone, pizza tray, plane hangar, pony tail, pooh bear, pool table, prairie dog,
rack of lamb, railroad tie, record player, red bull, red light district, refrigerator magnet,
remote area, remote control car, remote control plane, remote controlled, remote field,
remote location, remote place, rice ball, rice cake, river bed, rocking horse,
roll of toilet paper/rolls of toilet paper, rotary phone, rubber duck, rubber ducky, sandwich board,
sandwich shop, santa 's hat, santa claus hat, santa hat, sauce boat, saw horse, sea horse,
semi circle, semi sweet, side car, sink hole, skate bowl, skateboard bowl, skateboard park,
skateboard ramp, skateboard rink, skateboarding bowl, skatepark bowl, ski area, ski boot,
ski clothes, ski coat, ski course, ski gloves, ski goggle, ski hat, ski helmet, ski hill,
ski jacket, ski jump, ski lift, ski lodge, ski mask, ski mountain, ski outfit, ski pants, ski path,
ski patrol, ski pole, ski race, ski resort, ski run, ski school, ski slope, ski suit, ski team,
ski track, ski trail, smokey bear, smokey the bear, someone 's, spread eagle, stationary bike,
step stool, suction cup, super bowl, surfboard shop, table cloth, table lamp, table tennis,
television show, television stand, television station, tennis table, their baby, their mother,
tie a, tie down, tie dye, tie dyed, tie her, tie his, tie up, ties her, ties his, tiger cub,
toilet brush, toilet paper, toilet paper holder, toilet paper roll, toilet plunger, toilet roll,
toilet tissue, tooth brush holder, toothbrush case, toothbrush holder, toy bat, toy kitchen,
toy phone, train bridge, train car seat, train crossing, train depot, train line, train platform,
train rail, train set, train shed, train station, train stop, train terminal, train track,
train tunnel, train yard, truck cab, turn table, tv cabinet, tv show, tv stand, tv station, tv tray,
twist tie, umbrella hat, umbrella stand, vampire bat, video player, water pitcher, wheel chair,
winnie the pooh bear, women 's bathroom, women 's restroom, womens bathroom, womens restroom,
world cup, wrecking ball, zebra crossing, zebra stripe, zebra striped
"""

ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
VEHICLES = ("bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat")
# Words for persons that also name animals: "baby elephant", "mother bird", "a couple zebras"
OF_ANIMALS = ("baby", "mother", "father", "couple")

# Objects that people make images of: "a toy car", "a horse statue", "a painting of a man" are none.
DEPICTED = frozenset((*ANIMALS, *VEHICLES, "person"))
DEPICTION = re.compile(
    r"""\b(toy|stuffed|plush|ceramic|fake|cartoon|lego)\ _
    | \b(statue|sculpture|figurine|carving|cutout|drawing|painting)s?\ of\ ((an?|the)\ )?_
    | _\ (shaped | (statue|sculpture|figurine|costume|mask|puppet|doll|toy|balloon|logo|print)s?)$
    """,
    re.VERBOSE,
)
