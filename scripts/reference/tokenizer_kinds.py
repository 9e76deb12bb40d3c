"""Small tokenizers of every kind that engine/tokenizer.h reads, trained with the Hugging Face `tokenizers` library on the
text below. Used by make_tokenizer_cases.py (the files under tests/data/tokenizer) and check_tokenizer.py (the large
comparison)."""

import json
import random
import unicodedata

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

TEXT = """
A cache remembers what it has seen, and the art lies in what it may forget. Every word that leaves the window is
weighed once: kept for later or let go. We don't know which line a reader will come back to; we'll guess, we've guessed
before, and I'm sure you'd do the same. She's counting: 1, 2, 3, 10, 42, 128, 1024, 65536, 3.14159 and 2.71828.
In 2024 there were 8,192 slots.
The quick brown fox jumps over the lazy dog while the heavy rain falls on the hills of the north, where the old mill stands.
There was a little house by the river, and in the house there lived an old man who told stories to the children.
    def keep(utility, threshold=0.5):
        return [i for i, u in enumerate(utility) if u >= threshold]
\tint main(void) { for (int i = 0; i < n; i++) sum += x[i] * y[i]; return 0; }
Der Schlüssel liegt unter der Fußmatte; größere Übungen hören früher auf. Straße, Äpfel, Öl, Übermut, naïve façade, garçon.
L'été dernier, les élèves ont mangé des crêpes près de la forêt ; où êtes-vous allés ? Señor Núñez llegó mañana con el niño.
Старая мельница стоит у реки, и ветер поёт в её крыльях. Ёжик нёс яблоко домой, а дождь шёл весь день и всю ночь напролёт.
Η παλιά πέτρα κοιμάται στον ήλιο. Ξέρω ότι δεν ξέρω. Ο άνεμος περνά πάνω από τη θάλασσα και τα νησιά.
पुरानी चक्की नदी के किनारे खड़ी है और हवा गाती है। बच्चे कहानी सुनते हैं।
老磨坊站在河边，风在唱歌。孩子们听故事，时间慢慢过去。 今日は静かな雨が降っています。カタカナとひらがな、漢字もあります。
오래된 방앗간은 강가에 서 있고 바람이 노래합니다. 아이들은 이야기를 듣습니다.
الطاحونة القديمة تقف على ضفة النهر والريح تغني. Những đứa trẻ nghe kể chuyện bên dòng sông, trời mưa suốt đêm.
Smile 🙂 and wave 👋🏽 at the family 👨‍👩‍👧‍👦, then fly 🇩🇪 🇯🇵.
Symbols: € £ ¥ § © ® ™ ± × ÷ ≈ ≤ ≥ → ← ∞ ½ ¼ ² ³ № … “quotes” ‘single’ – — •
"""

GPT2_SPECIALS = ["<|endoftext|>"]
WORD = "▁"

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
TEKKEN = (rf"[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]*[{_LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{_UPPER}]+[{_LOWER}]*"
          r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
POSSESSIVE = (r"(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
              r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
DEEPSEEK = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_alphabet():
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def train(vocab_size, pre_tokenizer, normalizer=None, alphabet=(), text=TEXT):
    """Tokens in order of id, and merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=list(alphabet), show_progress=False)
    lines = text if isinstance(text, list) else text.split("\n")
    tokenizer.train_from_iterator(lines, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def added(id_, content, special=True, normalized=False, single_word=False, lstrip=False, rstrip=False):
    return {"id": id_, "content": content, "single_word": single_word, "lstrip": lstrip, "rstrip": rstrip,
            "normalized": normalized, "special": special}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def byte_level(use_regex=True, add_prefix_space=False):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": use_regex}


def metaspace(scheme="always", split_=True):
    return {"type": "Metaspace", "replacement": WORD, "prepend_scheme": scheme, "split": split_}


def sequence(key, *members):
    return {"type": "Sequence", key: list(members)}


def template(before, after=()):
    def specials(names):
        return [{"SpecialToken": {"id": name, "type_id": 0}} for name, _ in names]
    middle = [{"Sequence": {"id": "A", "type_id": 0}}]
    return {"type": "TemplateProcessing", "single": specials(before) + middle + specials(after),
            "pair": specials(before) + middle + [{"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {n: {"id": n, "ids": [i], "tokens": [n]} for n, i in [*before, *after]}}


LLAMA_DECODER = sequence("decoders", {"type": "Replace", "pattern": {"String": WORD}, "content": " "},
                         {"type": "ByteFallback"},
                         {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0})
GEMMA_DECODER = sequence("decoders", {"type": "Replace", "pattern": {"String": WORD}, "content": " "},
                         {"type": "ByteFallback"},
                         {"type": "Fuse"})


def assemble(tokens, merges, added_tokens=(), normalizer=None, pre_tokenizer=None, post_processor=None, decoder=None,
             old_merges=False, **options):
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False}
    model.update(options)
    model["vocab"] = {token: i for i, token in enumerate(tokens)}
    model["merges"] = [" ".join(m) for m in merges] if old_merges else merges
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added_tokens),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": decoder, "model": model}


def _bytes():
    return [f"<0x{b:02X}>" for b in range(256)]


def _llama_tokens(size, text):
    """SentencePiece-like: unk, bos, eos, bytes, characters and merges over words that begin with the word mark."""
    normalizer = normalizers.Sequence([normalizers.Prepend(WORD), normalizers.Replace(" ", WORD)])
    tokens, merges = train(size, pre_tokenizers.Split(WORD, "merged_with_next"), normalizer, text=text)
    return ["<unk>", "<s>", "</s>"] + _bytes() + tokens, merges


def _spiece_specials():
    return [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]


def llama3(size, text):
    tokens, merges = train(size, pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=byte_alphabet(), text=text)
    # Whole words that no merge makes: ignore_merges finds them.
    tokens += ["Ġunreachable", "zzzz", "Ġ1024", "ĠÃĿÃĿ"]
    n = len(tokens)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return assemble(tokens, merges, [added(n + i, name) for i, name in enumerate(names)],
                    pre_tokenizer=sequence("pretokenizers", split(LLAMA3), byte_level(False)),
                    post_processor=sequence("processors", byte_level(), template([(names[0], n)])),
                    decoder=byte_level(), ignore_merges=True)


def qwen2(size, text):
    tokens, merges = train(size, pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=byte_alphabet(), text=text)
    n = len(tokens)
    specials = [added(n, "<|endoftext|>"), added(n + 1, "<|im_start|>"), added(n + 2, "<|im_end|>"),
                added(n + 3, "<tool_call>", special=False), added(n + 4, "</think>", special=False)]
    return assemble(tokens, merges, specials, normalizer={"type": "NFC"},
                    pre_tokenizer=sequence("pretokenizers", split(QWEN2), byte_level(False)),
                    post_processor=byte_level(), decoder=byte_level(), old_merges=True)


def gemma(size, text):
    tokens, merges = train(size, pre_tokenizers.Split(WORD, "merged_with_next"), normalizers.Replace(" ", WORD), text=text)
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "\n\n", WORD * 2, WORD * 3, "\t\t"] + _bytes() + \
        [t for t in tokens if t not in (WORD * 2, WORD * 3)]
    merges = [m for m in merges if "".join(m) in tokens]
    specials = [added(i, tokens[i]) for i in range(4)] + [added(i, tokens[i], special=False) for i in range(4, 8)]
    return assemble(tokens, merges, specials, normalizer={"type": "Replace", "pattern": {"String": " "}, "content": WORD},
                    pre_tokenizer=split(" ", "MergedWithPrevious", kind="String"),
                    post_processor=template([("<bos>", 2)]), decoder=GEMMA_DECODER, unk_token="<unk>", fuse_unk=True,
                    byte_fallback=True)


def llama2(size, text):
    tokens, merges = _llama_tokens(size, text)
    normalizer = sequence("normalizers", {"type": "Prepend", "prepend": WORD},
                          {"type": "Replace", "pattern": {"String": " "}, "content": WORD})
    return assemble(tokens, merges, _spiece_specials(), normalizer=normalizer, post_processor=template([("<s>", 1)]),
                    decoder=LLAMA_DECODER, unk_token="<unk>", fuse_unk=True, byte_fallback=True, old_merges=True)


def mistral(size, text):
    tokens, merges = _llama_tokens(size, text)
    specials = _spiece_specials() + [added(len(tokens), "[INST]"), added(len(tokens) + 1, "[/INST]")]
    return assemble(tokens, merges, specials, pre_tokenizer=metaspace("first", False),
                    post_processor=template([("<s>", 1)]), decoder=LLAMA_DECODER, unk_token="<unk>", fuse_unk=True,
                    byte_fallback=True)


def metaspace_split(size, text):
    """Metaspace that splits and always prepends, unk tokens one by one, eos behind, Metaspace decoder."""
    tokens, merges = _llama_tokens(size, text)
    tokens = tokens[:3] + tokens[3 + 256:]
    return assemble(tokens, merges, _spiece_specials(), pre_tokenizer=metaspace(), decoder=metaspace(),
                    post_processor=template([("<s>", 1)], [("</s>", 2)]), unk_token="<unk>")


def smollm(size, text):
    tokens, merges = train(size, pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=byte_alphabet(), text=text)
    specials = [added(len(tokens), "<|endoftext|>"), added(len(tokens) + 1, "<|im_start|>")]
    digits = {"type": "Digits", "individual_digits": True}
    return assemble(tokens, merges, specials, pre_tokenizer=sequence("pretokenizers", digits, byte_level()),
                    decoder=byte_level())


def gpt2_prefix(size, text):
    """add_prefix_space, which acts again behind every added token."""
    tokens, merges = train(size, pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=byte_alphabet(), text=text)
    n = len(tokens)
    specials = [added(n, "<|endoftext|>"), added(n + 1, "<mask>", lstrip=True)]
    return assemble(tokens, merges, specials, pre_tokenizer=byte_level(True, True), decoder=byte_level(True, True),
                    unk_token="")


def tekken(size, text):
    tokens, merges = train(size, pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=byte_alphabet(), text=text)
    return assemble(tokens, merges, [added(len(tokens), "[INST]")],
                    pre_tokenizer=sequence("pretokenizers", split(TEKKEN), byte_level(False)), decoder=byte_level())


def deepseek(size, text):
    tokens, merges = train(size, pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=byte_alphabet(), text=text)
    stages = [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK), byte_level(False)]
    return assemble(tokens, merges, [added(len(tokens), "<｜begin▁of▁sentence｜>")],
                    pre_tokenizer=sequence("pretokenizers", *stages), decoder=byte_level())


def written_out(size, text):
    """ByteLevel in front of other stages, which see its characters."""
    tokens, merges = train(size, pre_tokenizers.ByteLevel(add_prefix_space=False), alphabet=byte_alphabet(), text=text)
    stages = [byte_level(), {"type": "Digits", "individual_digits": False}, split("[0-9][0-9][0-9]"), split(POSSESSIVE)]
    return assemble(tokens, merges, [], pre_tokenizer=sequence("pretokenizers", *stages), decoder=None)


def torture(size, text):
    """Added tokens of every sort, with normalizers that change them."""
    tokens, merges = _llama_tokens(size, text)
    normalizer = sequence("normalizers", {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "[“”]"}, "content": '"'},
                          {"type": "Replace", "pattern": {"String": "''"}, "content": '"'},
                          {"type": "Prepend", "prepend": WORD},
                          {"type": "Replace", "pattern": {"String": " "}, "content": WORD})
    n = len(tokens)
    extra = [("<one>", dict(single_word=True)), ("<left>", dict(lstrip=True)), ("<right>", dict(rstrip=True)),
             ("<both>", dict(lstrip=True, rstrip=True)), ("  ", dict(special=False)),
             ("\n\n", dict(special=False, lstrip=True)),
             ("mill", dict(special=False, single_word=True)), ("“name”", dict(special=False, normalized=True)),
             ("cafe\u0301", dict(special=False, normalized=True)), ("the river", dict(normalized=True, single_word=True)),
             ("ab", dict(special=False)), ("abc", dict(special=False)), ("bcd", dict(special=False, normalized=True)),
             ("é", dict(special=False, normalized=True, lstrip=True)), ("<s", dict(special=False))]
    return assemble(tokens, merges, _spiece_specials() + [added(n + i, c, **f) for i, (c, f) in enumerate(extra)],
                    normalizer=normalizer, pre_tokenizer=metaspace("first", True), post_processor=template([("<s>", 1)]),
                    decoder=LLAMA_DECODER, unk_token="<unk>", fuse_unk=True, byte_fallback=True)


def holes(size, text):
    """Byte fallback with half the byte tokens, so that unk and byte tokens mix; merges of byte tokens and of unk."""
    tokens, merges = _llama_tokens(size, text)
    missing = {f"<0x{b:02X}>" for b in range(0x80, 0xA0)}
    tokens = [t for t in tokens if t not in missing]
    extra = [["<0xE2>", "<0xA0>"], ["<unk>", WORD], ["<0xE2><0xA0>", "<0xBF>"]]
    tokens += ["".join(m) for m in extra]
    return assemble(tokens, extra + merges, _spiece_specials(), pre_tokenizer=metaspace("never", False),
                    decoder=LLAMA_DECODER,
                    unk_token="<unk>", byte_fallback=True)


def behaviour(name, invert):
    """One Split behaviour, forward or inverted, in front of a plain BPE over characters."""
    def make(size, text):
        tokens, merges = train(size, pre_tokenizers.Whitespace(), text=text)
        stages = [split(r"\s+|[,.;]|\d", name, invert), split("e", "MergedWithNext", kind="String")]
        return assemble(["<unk>"] + tokens, merges, [added(0, "<unk>")], pre_tokenizer=sequence("pretokenizers", *stages),
                        decoder=None, unk_token="<unk>", fuse_unk=invert)
    return make


KINDS = {"llama3": llama3, "qwen2": qwen2, "gemma": gemma, "llama2": llama2, "mistral": mistral,
         "metaspace": metaspace_split,
         "smollm": smollm, "gpt2_prefix": gpt2_prefix, "tekken": tekken, "deepseek": deepseek, "written_out": written_out,
         "torture": torture, "holes": holes}
for _name in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
    for _invert in (False, True):
        KINDS[f"split_{_name}{'_inverted' if _invert else ''}"] = behaviour(_name, _invert)

NASTY = [
    "", " ", "  ", "\n", "\r\n", "\t", "a", " a", "a ", "  a  ", "\u00a0", "\u3000x", "\u180e\u200b\u200d", "Hello, world!",
    "I'm you're we'll they've he'd it's don't I'M YOU'RE 'ſ '\u017f's", "1234567 12,345.678 ٣٤٥ ⅷ ½ ² ①",
    "   leading and trailing   ",
    "line one\nline two\r\nline three\n\n\n  indented\n\t\ttabs",
    "e\u0301 é \u1e9b\u0323 q\u0307\u0323 \u0344 \u0958 \uac00 \u1100\u1161\u11a8",
    "cafe\u0301 café “name” the river xthe riverx the river.", "<s></s><unk><s>", "<s> x </s> y <pad>",
    "a<one>b <one> c<one> <one>.",
    "a  <left>  b  <right>  c  <both>  d", "<right>   <left>  <both>\n\n", "mill windmill mill. mills mill",
    "abcd abc ab bcd zabcdz",
    "''quoted'' “quoted”", "<|endoftext|>", "x<|im_start|>user\nhi<|im_end|>\n", "<|begin_of_text|><|eot_id|>",
    "[INST] hi [/INST]",
    "<mask> a <mask>", "日本語のテキスト 中文字符 한국어", "🙂👋🏽👨‍👩‍👧‍👦🇩🇪", "\U0001f600\U000e0041\ufe0f", "<0x41><0x0A> <0xZZ> <0x+A>",
    "▁▁a▁b ▁",
    "Ġthe Ċ ÃĿ", "\x00\x01\x7f\x80\x9f", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u2800\u2840⠿ x\u2800",
    "zzzz unreachable 1024 2048", "ſ ﬁ ﬀ ß ŉ ǰ İ ı", "the theThe THE tHe", "\ufeffbom", "a\u0300\u0301\u0302\u0303b",
    "\U00010fff\U0001d15e",
    "if (x[i] >= 0.5f && y != NULL) { return *p++ - ~q; } // done", "C:\\path\\to\\file.txt /usr/local/bin?a=b&c=d#e",
    "é", " é", "xé  é",
    "\n\n\n", " \n\n ", "\t\t\t", "a, b; c. d", "eee e,e.e;e1e2e", "11 22e33", ",.;,.;", "nee e",
]


def assigned():
    """Code points assigned in Unicode 14 (the version of Python 3.11), without surrogates."""
    assert unicodedata.unidata_version == "14.0.0", "Python 3.11 is needed: its tables are Unicode 14"
    return [c for c in range(1, 0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]


def every_code_point():
    """One text for every assigned code point, in several neighbourhoods."""
    return [f"{c} {c}a{c}1{c} a\u0301{c}\u0323 '{c}\n{c}{c}'s" for c in map(chr, assigned())]


class Strings:
    """Random strings: uniform over all assigned code points, over small sets, over tokens, and mixtures of these."""

    def __init__(self, tokenizer_json, seed):
        self.random = random.Random(seed)
        self.all = assigned()
        self.blocks = [[c for c in self.all if low <= c < high] for low, high in
                       ((0x20, 0x7F), (0x20, 0x7F), (1, 0x250), (0x300, 0x370), (0x370, 0x600), (0x600, 0x1200),
                        (0x1100, 0x1200),
                        (0x2000, 0x2C00), (0x3000, 0x3400), (0xAC00, 0xD7A4), (0x10000, 0x12000), (0x1D000, 0x20000))]
        self.marks = [c for c in self.all if unicodedata.combining(chr(c))]
        self.space = [9, 10, 11, 12, 13, 32, 32, 32, 32, 0x85, 0xA0, 0x1680, 0x180E, 0x2003, 0x200B, 0x2028, 0x202F, 0x3000,
                      0xFEFF]
        self.bits = ["'s", "'LL", "'re", "n't", "12", "345", "\r\n", "\n\n", "  ", " ", "e\u0301", "▁", "<", ">", "'ſ",
                     "ab", "abc"]
        self.added = [t["content"] for t in tokenizer_json["added_tokens"]]
        self.tokens = list(tokenizer_json["model"]["vocab"])

    def part(self):
        pick, r = self.random.random(), self.random
        if pick < 0.3:
            return "".join(map(chr, r.choices(self.all, k=r.randint(1, 6))))
        if pick < 0.6:
            return "".join(map(chr, r.choices(r.choice(self.blocks), k=r.randint(1, 8))))
        if pick < 0.7:
            return "".join(map(chr, r.choices(self.space, k=r.randint(1, 4))))
        if pick < 0.78:
            return chr(r.choice(self.all)) + "".join(map(chr, r.choices(self.marks, k=r.randint(1, 4))))
        if pick < 0.86 and self.added:
            return r.choice(self.added)
        if pick < 0.95:
            return r.choice(self.bits)
        return r.choice(self.tokens)

    def next(self):
        text = "".join(self.part() for _ in range(self.random.choice((1, 1, 2, 3, 5, 9))))
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "ignore")
