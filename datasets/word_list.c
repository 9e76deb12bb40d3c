#include "datasets/word_list.h"

#include "base/rng.h"

static const char *const ADJECTIVES[] = {
    "able", "acid", "aged", "agile", "alert", "alive", "amber", "ample", "ancient", "angry", "arctic", "ashen",
    "astute", "autumn", "awake", "bad", "bare", "basic", "bitter", "black", "bland", "bleak", "blind", "blue",
    "blunt", "bold", "bony", "boring", "bossy", "brave", "brief", "bright", "brisk", "broad", "broken", "bronze",
    "brown", "bumpy", "busy", "calm", "candid", "careful", "careless", "cheap", "cheerful", "chilly", "chubby",
    "civil", "clean", "clear", "clever", "close", "cloudy", "clumsy", "coarse", "cold", "common", "cosy", "crafty",
    "creamy", "crisp", "crooked", "cruel", "curious", "curly", "cute", "daily", "damp", "dark", "dear", "deep",
    "dense", "dim", "dirty", "distant", "double", "dry", "dull", "dusty", "eager", "early", "earnest", "easy",
    "elder", "elegant", "empty", "equal", "even", "exact", "faint", "fair", "false", "famous", "fancy", "fast",
    "faulty", "fearless", "fierce", "final", "fine", "firm", "first", "flat", "fluffy", "foggy", "formal", "fragile",
    "frank", "free", "fresh", "friendly", "frosty", "full", "funny", "fuzzy", "gentle", "giant", "gifted", "glad",
    "gloomy", "glossy", "golden", "good", "graceful", "grand", "grateful", "gray", "great", "greedy", "green", "grim",
    "gruff", "grumpy", "handy", "happy", "hard", "harsh", "hasty", "heavy", "hidden", "high", "hollow", "honest",
    "hot", "huge", "humble", "hungry", "icy", "ideal", "idle", "jolly", "joyful", "juicy", "keen", "kind", "large",
    "late", "lazy", "lean", "light", "little", "lively", "lonely", "long", "loud", "low", "loyal", "lucky", "mad",
    "main", "massive", "mellow", "mighty", "mild", "minor", "misty", "modern", "modest", "muddy", "narrow", "nasty",
    "near", "neat", "new", "nice", "noble", "noisy", "odd", "old", "open", "orange", "oval", "pale", "patient",
    "plain", "pleasant", "plump", "polite", "poor", "prompt", "proud", "pure", "purple", "quaint", "quick", "quiet",
    "rainy", "rapid", "rare", "raw", "ready", "real", "red", "rich", "rigid", "ripe", "rough", "round", "royal",
    "rude", "rusty", "sad", "safe", "salty", "scarce", "secret", "serious", "shallow", "sharp", "shiny", "short",
    "shy", "silent", "silky", "silly", "simple", "sincere", "single", "skinny", "sleepy", "slim", "slow", "small",
    "smart", "smooth", "snowy", "soft", "solid", "sore", "sour", "spicy", "square", "stale", "steady", "steep",
    "sticky", "stiff", "still", "stormy", "straight", "strange", "strict", "strong", "sturdy", "subtle", "sudden",
    "sunny", "super", "sweet", "swift", "tall", "tame", "tart", "tasty", "tender", "tense", "thick", "thin",
    "thirsty", "tidy", "tight", "tiny", "tired", "tough", "true", "upper", "urban", "useful", "vague", "vain", "vast",
    "violet", "warm", "wary", "weak", "weary", "wet", "white", "whole", "wide", "wild", "windy", "wise", "witty",
    "wooden", "yellow", "young", "zesty",
};

static const char *const NOUNS[] = {
    "acorn", "actor", "airport", "alley", "almond", "anchor", "animal", "ankle", "apple", "apron", "arch", "armor",
    "arrow", "artist", "attic", "aunt", "author", "axle", "badge", "bakery", "balcony", "ball", "balloon", "bamboo",
    "banana", "banjo", "bank", "barn", "barrel", "basin", "basket", "bath", "beach", "beacon", "bead", "beak", "bean",
    "bear", "beard", "beaver", "bed", "beetle", "bell", "belt", "bench", "berry", "bicycle", "bird", "biscuit",
    "blanket", "blossom", "board", "boat", "bolt", "bone", "bonnet", "book", "boot", "border", "bottle", "boulder",
    "bowl", "box", "bracelet", "branch", "bread", "breeze", "brick", "bridge", "broom", "brother", "brush", "bubble",
    "bucket", "bugle", "bush", "butter", "button", "cabbage", "cabin", "cable", "cactus", "cake", "camel", "camera",
    "camp", "canal", "candle", "cannon", "canoe", "canvas", "canyon", "cape", "captain", "car", "caravan", "carpet",
    "carrot", "cart", "castle", "cat", "cattle", "cave", "cedar", "ceiling", "cellar", "chain", "chair", "chalk",
    "chapel", "cheese", "cherry", "chest", "chicken", "chimney", "chin", "church", "circle", "citizen", "city",
    "cliff", "clock", "closet", "cloth", "cloud", "clove", "coach", "coal", "coast", "coat", "cobra", "coffee",
    "coin", "collar", "comb", "compass", "cook", "copper", "coral", "cork", "corn", "corner", "cottage", "cotton",
    "couch", "cousin", "cow", "crab", "cradle", "crane", "crate", "creek", "cricket", "crow", "crown", "crumb",
    "crystal", "cup", "curb", "curtain", "cushion", "dancer", "dawn", "deer", "desert", "desk", "dial", "diamond",
    "dinner", "dish", "doctor", "dog", "doll", "dolphin", "donkey", "door", "dragon", "drawer", "dress", "drum",
    "duck", "eagle", "ear", "earth", "elbow", "elephant", "engine", "envelope", "evening", "fabric", "factory",
    "falcon", "farm", "farmer", "father", "feather", "fence", "fern", "ferry", "field", "fig", "film", "finger",
    "fire", "fish", "flag", "flame", "flask", "flower", "flute", "forest", "fork", "fort", "fountain", "fox", "frame",
    "friend", "frog", "fruit", "galaxy", "garage", "garden", "garlic", "gate", "ghost", "ginger", "giraffe", "girl",
    "glass", "glove", "goat", "goose", "gown", "grain", "grape", "grass", "guitar", "hall", "hammer", "hand",
    "harbor", "harp", "hat", "hawk", "hazel", "heart", "hedge", "helmet", "hen", "herb", "hero", "hill", "hinge",
    "honey", "hood", "hook", "horn", "horse", "hotel", "house", "hut", "iceberg", "inch", "ink", "insect", "iron",
    "island", "ivory", "ivy", "jacket", "jar", "jelly", "jewel", "judge", "jug", "jungle", "kettle", "key", "king",
    "kitchen", "kite", "kitten", "knee", "knife", "knight", "knot", "ladder", "lady", "lake", "lamb", "lamp", "lane",
    "lantern", "lawn", "lawyer", "leaf", "leather", "lemon", "lentil", "letter", "library", "lily", "linen", "lion",
    "lizard", "lobster", "lock", "log", "lumber", "magnet", "maid", "mantle", "map", "maple", "marble", "market",
    "mask", "mast", "meadow", "medal", "melon", "merchant", "mill", "mine", "minute", "mirror", "mist", "mitten",
    "mole", "money", "monkey", "moon", "morning", "moss", "moth", "mother", "motor", "mountain", "mouse", "museum",
    "mushroom", "music", "nail", "napkin", "neck", "needle", "nephew", "nest", "net", "nickel", "night", "noodle",
    "nose", "notebook", "nurse", "nut", "oak", "oar", "ocean", "olive", "onion", "orchard", "organ", "otter", "oven",
    "owl", "ox", "paddle", "page", "palace", "palm", "pan", "panda", "paper", "parade", "parcel", "parrot", "party",
    "pasture", "path", "pea", "peach", "peacock", "pear", "pearl", "pebble", "pelican", "pen", "pencil", "penny",
    "pepper", "piano", "picture", "pie", "pig", "pigeon", "pillow", "pilot", "pine", "pipe", "pizza", "planet",
    "plate", "plow", "plum", "pocket", "poem", "poet", "pond", "pony", "porch", "port", "postman", "pot", "potato",
    "powder", "prince", "puddle", "pump", "pumpkin", "puppet", "puppy", "purse", "quail", "queen", "quill", "quilt",
    "rabbit", "radio", "radish", "raft", "rail", "railway", "rain", "raven", "recipe", "reef", "ribbon", "rice",
    "ring", "river", "road", "robe", "robin", "rocket", "roof", "room", "root", "rope", "rose", "rug", "sack",
    "saddle", "sail", "sailor", "salad", "salmon", "salt", "sand", "sandal", "sauce", "sausage", "scarf", "school",
    "scissors", "seal", "season", "seed", "shark", "sheep", "shelf", "shell", "ship", "shirt", "shoe", "shop",
    "shore", "shovel", "silk", "silver", "singer", "sister", "skirt", "sky", "sled", "sleeve", "smoke", "snail",
    "snake", "soap", "sock", "sofa", "soldier", "soup", "spider", "spinach", "spoon", "spring", "squid", "squirrel",
    "stable", "stage", "stairs", "stamp", "star", "statue", "steam", "steel", "stick", "stone", "stool", "store",
    "storm", "story", "stove", "street", "student", "sugar", "summer", "sun", "swan", "sweater", "sword", "table",
    "tailor", "tea", "teacher", "teapot", "temple", "tent", "theater", "thread", "throne", "thumb", "thunder",
    "ticket", "tiger", "tile", "tin", "toad", "toast", "tomato", "tongue", "tooth", "torch", "tower", "town", "toy",
    "tractor", "train", "tray", "tree", "trumpet", "trunk", "tulip", "tunnel", "turkey", "turnip", "turtle", "uncle",
    "valley", "vase", "velvet", "village", "vine", "violin", "visitor", "voyage", "wagon", "waiter", "wall", "walnut",
    "walrus", "watch", "water", "wave", "wheat", "wheel", "whistle", "willow", "window", "wing", "winter", "wizard",
    "wolf", "wool", "writer", "yard", "yarn", "zebra",
};

static const char *const VERBS[] = {
    "accept", "admire", "adopt", "advise", "agree", "allow", "announce", "answer", "appear", "applaud", "argue",
    "arrange", "arrive", "ask", "attach", "attend", "bake", "beg", "begin", "behave", "believe", "blink", "blush",
    "boil", "borrow", "bounce", "bow", "breathe", "bring", "build", "burn", "bury", "buy", "carry", "carve", "catch",
    "celebrate", "change", "chase", "chew", "choose", "clap", "climb", "collect", "complain", "connect", "continue",
    "cough", "count", "cover", "crawl", "cross", "cry", "cut", "dance", "decide", "deliver", "describe", "destroy",
    "dig", "dine", "dive", "divide", "draw", "dream", "drift", "drink", "drive", "drop", "earn", "eat", "enjoy",
    "enter", "escape", "examine", "explain", "explore", "fail", "fall", "fasten", "feed", "feel", "fetch", "fight",
    "find", "fix", "float", "flow", "fly", "fold", "follow", "forget", "forgive", "freeze", "gather", "give", "glide",
    "grab", "greet", "grin", "grow", "guess", "guide", "hang", "happen", "harvest", "hear", "help", "hesitate",
    "hide", "hire", "hop", "hope", "hunt", "hurry", "imagine", "improve", "invent", "invite", "join", "joke", "jump",
    "kneel", "knit", "knock", "know", "laugh", "lead", "learn", "lend", "lift", "listen", "live", "lose", "love",
    "marry", "measure", "melt", "mend", "mix", "mourn", "move", "nod", "notice", "obey", "observe", "offer", "paint",
    "pardon", "perform", "pick", "plant", "play", "ponder", "pour", "praise", "pray", "prefer", "prepare", "pretend",
    "promise", "protect", "pull", "push", "question", "raise", "reach", "read", "receive", "refuse", "remain",
    "remember", "repair", "repeat", "reply", "rescue", "rest", "return", "reward", "ride", "rinse", "rise", "roam",
    "row", "run", "rush", "search", "seem", "sell", "send", "serve", "settle", "sew", "shake", "share", "shiver",
    "shout", "sing", "sit", "sketch", "skip", "sleep", "slide", "smell", "smile", "sneeze", "solve", "speak", "spell",
    "spend", "spin", "splash", "stand", "stare", "steer", "stir", "stop", "stretch", "stroll", "study", "suggest",
    "surprise", "swim", "teach", "tell", "thank", "think", "throw", "touch", "travel", "tremble", "trust", "try",
    "turn", "unpack", "visit", "vote", "wait", "wake", "walk", "wander", "want", "warn", "wash", "weave", "weep",
    "whisper", "win", "wink", "wipe", "wish", "wonder", "work", "worry", "wrap", "write", "yawn", "yell",
};

enum {
    N_ADJECTIVES = sizeof ADJECTIVES / sizeof *ADJECTIVES,
    N_NOUNS = sizeof NOUNS / sizeof *NOUNS,
    N_VERBS = sizeof VERBS / sizeof *VERBS,
    N_SINGLE = N_ADJECTIVES + N_NOUNS + N_VERBS,
};
_Static_assert(WORD_LIST_MAX == N_SINGLE + N_ADJECTIVES * N_NOUNS, "word_list.h says how many words there are");

const char *word_adjective(struct draws *d) {
    return ADJECTIVES[draw(d, N_ADJECTIVES)];
}

const char *word_noun(struct draws *d) {
    return NOUNS[draw(d, N_NOUNS)];
}

static const char *single(uint64_t i) {
    if (i < N_ADJECTIVES)
        return ADJECTIVES[i];
    i -= N_ADJECTIVES;
    return i < N_NOUNS ? NOUNS[i] : VERBS[i - N_NOUNS];
}

void word_put_distinct(struct str *s, uint64_t key, uint64_t stream, size_t i) {
    if (i < N_SINGLE) {
        str_puts(s, single(rng_permute(key, stream, N_SINGLE, i)));
        return;
    }
    uint64_t pair = rng_permute(key, stream, (uint64_t)N_ADJECTIVES * N_NOUNS, i - N_SINGLE);
    str_printf(s, "%s-%s", ADJECTIVES[pair / N_NOUNS], NOUNS[pair % N_NOUNS]);
}
