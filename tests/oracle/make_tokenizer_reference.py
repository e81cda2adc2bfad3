#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/data/tokenizer: texts, and their token ids by Hugging Face tokenizers.

    pip install tokenizers gguf
    tests/oracle/make_tokenizer_reference.py models/SmolLM2-135M-Instruct.Q4_1.gguf

texts.txt      one text a line; bytes that are not printable UTF-8, and the backslash, are written \\xHH
smollm2.ids    for each text one line "AP id id ...": A=1 with special tokens added, P=1 with special tokens
               recognised in the text. Texts that are not UTF-8 are decoded with errors='replace' first.
NAME.json      small tokenizers trained on the texts, one for each style of pre-tokenizer
NAME.ids       as smollm2.ids, for a third of the texts: line i is for text 3*i + OFFSET; the first line is OFFSET
"""
import json
import random
import re
import sys
import unicodedata
from pathlib import Path

from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = Path(__file__).resolve().parent.parent / "data" / "tokenizer"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

SENTENCES = """
The quick brown fox jumps over the lazy dog, doesn't it?
I'LL say THEY'VE gone; we'd know she's RIGHT. It’s “quoted” — isn‘t it…
O rato roeu a rolha da garrafa de rum do rei da Rússia.
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío.
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.
Portez ce vieux whisky au juge blond qui fume; l'été, ça dépend d'où.
Příliš žluťoučký kůň úpěl ďábelské ódy.
Zażółć gęślą jaźń. Árvíztűrő tükörfúrógép.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.
Съешь же ещё этих мягких французских булок, да выпей чаю.
Щастям б'єш жук їх глицю в фон й ґедзь пріч.
דג סקרן שט בים מאוכזב ולפתע מצא לו חברה.
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر.
صِف خَلقَ خَودِ كَمِثلِ الشَمسِ إِذ بَزَغَت
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतंत्रता प्राप्त है।
সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা নিয়ে জন্মগ্রহণ করে।
மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน
ཨོཾ་མ་ཎི་པདྨེ་ཧཱུྃ།
ყველა ადამიანი იბადება თავისუფალი.
Բոլոր մարդիկ ծնվում են ազատ ու հավասար։
いろはにほへと ちりぬるを。カタカナと漢字、ﾊﾝｶｸも混ぜる１２３。
人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心。
天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
Tất cả mọi người sinh ra đều được tự do và bình đẳng.
ሰዎች ሁሉ ነጻ ሆነው ተወለዱ።
ᐃᓕᓐᓂᐊᖅᑐᓕᒫᑦ ᎣᏏᏲ 𐌰𐌽𐌰 𓀀𓁐 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 Ⅻ ½ ² ₃ ①
def fibonacci(n: int) -> int:\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n
for (size_t i = 0; i < v.size(); ++i) {\n\tstd::cout << v[i] << "\\n";\n}
SELECT id, COUNT(*) FROM users WHERE name LIKE '%o''brien%' GROUP BY 1 HAVING COUNT(*) >= 10;
{"key": [1, 2.5e-10, null, true], "nested": {"a\\u00e9": "\\\\path\\\\to"}}
<div class="x" style='color:#ff00aa'>&nbsp;&amp;</div><!-- note -->\r\n<p>x</p>\r\n
#!/usr/bin/env bash\nset -euo pipefail\ncurl -sSL "https://example.com/?q=a%20b&c=d#e" | jq '.[] | .x'\n
fn main() { let x: Vec<_> = (0..10).map(|i| i * 2).collect(); println!("{x:?}"); }
\\begin{equation} e^{i\\pi} + 1 = 0 \\end{equation} $\\frac{a}{b}$ ∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β ≠ ∞
2023-10-05T14:48:00.000Z 1,234,567.89 0xDEADBEEF +1 (555) 012-3456 192.168.0.1 10^100 007 ٣٤٥ ९८७
| col a | col b |\n|------:|:-----:|\n| 1     | `x`   |\n\n\n* item\n  * sub\n    1. deep\n
aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
=================================== ~~~~~~~~~~ ########## !!!!!!??? ....... -------->
""".strip().split("\n")
EMOJI = ("😀 😂 🤣 ❤️ ❤ 👍 👍🏽 👩‍👩‍👧‍👦 👨🏿‍🚀 🏳️‍🌈 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🇩🇪 🇯🇵 🇧🇷 🧑‍💻 ☺ ☺️ ♟️ 1️⃣ #️⃣ 🫠 🤦🏼‍♂️ 🙈 ™ © ® ‼️ 🕵️‍♀️ 💯 🔥").split()
SPACES = [" ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", " \n", "\n ", " \t ", "\u00a0",
          "\u3000", "\u2003", "\u200b", "\u2028", "\u180e", "\u0085", "\x0b", "\x0c", "\u1680", "\u202f", "\ufeff",
          " " * 17, " " * 70, "\n" * 33, "\t \n" * 5]
CONTROLS = ["\x00", "\x01", "\x07", "\x08", "\x1b[31m", "\x1f", "\x7f", "\u0080", "\u009f", "\u00ad", "\u202e", "\u2066"]
MARKS = ["e\u0301", "a\u0308\u0323", "o\u0323\u0308", "\u0301", "n\u0303o", "\u1100\u1161\u11a8", "\u212b", "\u2126",
         "\ufb01", "q\u0307\u0323", "\u0915\u094d\u0937", "\u0340", "s\u0307\u0323", "Z\u0351\u036b\u0343\u036a", "\u0344"]
BROKEN = [b"\xff", b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
          b"\xe2\x28\xa1", b"\xf0\x28\x8c\xbc", b"\xfe\xff", b"\xc3\xc3\xa9", b"\xf0\x9f\xf0\x9f\x98\x80", b"\xe0\x80",
          b"\xef\xbf", b"\xf8\x88\x80\x80\x80", b"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<|begin_of_text|>", "<mask>", "[USER]", "naïve",
            "<|im_start|>user\n", "<|im_end", "<|im_end|>>", "<repo_name>", "<file_sep>"]


def make_texts(rng):
    """About 2,500 texts, each a bytes object."""
    assigned = [c for c in map(chr, range(0x20, 0x1FBFF)) if unicodedata.category(c) not in ("Cn", "Cs", "Co")]
    words = sorted({w for s in SENTENCES for w in s.split(" ") if w})
    digits = lambda: "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 9)))
    code_points = lambda: "".join(rng.choice(assigned) for _ in range(rng.randint(1, 5)))
    kinds = [(rng.choice, words)] * 9 + [(rng.choice, EMOJI)] + [(rng.choice, SPACES)] * 3 + [(rng.choice, MARKS)] * 2
    texts = [b""] + [s.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r").encode() for s in SENTENCES]
    texts += [e.encode() for e in EMOJI] + [s.encode() for s in SPACES + CONTROLS + MARKS + SPECIALS] + BROKEN
    texts += [("x" + s + "y" + s).encode() for s in SPACES]
    texts += [bytes([b]) for b in range(256)]
    while len(texts) < 2500:
        parts = []
        for _ in range(rng.randint(2, 8)):
            draw = rng.random()
            if draw < 0.62:
                choose, source = rng.choice(kinds)
                parts.append(choose(source).encode())
            elif draw < 0.72:
                parts.append(digits().encode())
            elif draw < 0.82:
                parts.append(code_points().encode())
            elif draw < 0.87:
                parts.append(rng.choice(SPECIALS).encode())
            elif draw < 0.90:
                parts.append(rng.choice(CONTROLS).encode())
            elif draw < 0.94:
                parts.append(rng.choice(BROKEN))
            else:
                parts.append(rng.randbytes(rng.randint(1, 6)))
            if rng.random() < 0.6:
                parts.append(b" ")
        texts.append(b"".join(parts))
    for _ in range(40):  # long pieces, which take another way through the merge loop
        texts.append(rng.choice(words).encode() * rng.randint(8, 30))
    return texts


def escape(text):
    out, rest = [], text
    while rest:
        for size in (1, 2, 3, 4):
            try:
                char = rest[:size].decode()
                break
            except UnicodeDecodeError:
                char = None
        if char and len(char) == 1 and char != "\\" and unicodedata.category(char)[0] not in "CZ" or char == " ":
            out.append(char)
        else:
            size = 1 if char is None else size
            out.append("".join(f"\\x{b:02x}" for b in rest[:size]))
        rest = rest[size:]
    return "".join(out)


def id_line(tokenizer, text, add, parse):
    tokenizer.encode_special_tokens = not parse
    ids = tokenizer.encode(text.decode("utf-8", "replace"), add_special_tokens=bool(add)).ids
    return " ".join([f"{add}{parse}"] + [str(i) for i in ids])


def flags(i):
    return (i // 2) % 2, i % 2


def smollm2(path):
    """As SmolLM2's own tokenizer.json has it, from the vocabulary and merge rules of the GGUF file."""
    fields = GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    types = fields["tokenizer.ggml.token_type"].contents()
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    return tokenizer


def trained(texts, pre, specials, vocab_size=900):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator([t.decode("utf-8", "replace") for t in texts], trainer)
    return tokenizer


def edited(tokenizer, edit):
    data = json.loads(tokenizer.to_str())
    edit(data)
    return Tokenizer.from_str(json.dumps(data)), data


def small_tokenizers(texts):
    byte_level = lambda **k: pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": False, **k})
    split = lambda pattern, **k: pre_tokenizers.Split(Regex(pattern), **{"behavior": "isolated", **k})

    # OPT: GPT-2's byte-level BPE with </s> before the text. Merge rules as strings, as older files have them.
    opt = trained(texts, byte_level(use_regex=True), ["<s>", "<pad>", "</s>", "<unk>"])
    opt.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    yield "opt", edited(opt, lambda d: d["model"].update(merges=[" ".join(m) for m in d["model"]["merges"]]))

    # Llama 3: tokens that no merge rule makes are found because ignore_merges is set.
    llama3 = trained(texts, pre_tokenizers.Sequence([split(LLAMA3), byte_level()]), ["<|begin_of_text|>", "<|eot_id|>"])
    llama3.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False),
         processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)])])

    def drop_merges(data):
        data["model"]["ignore_merges"] = True
        data["model"]["merges"] = [m for i, m in enumerate(data["model"]["merges"]) if i < 40 or i % 5]
    yield "llama3", edited(llama3, drop_merges)

    # Qwen2: text is normalized to NFC first.
    qwen2 = trained(texts, pre_tokenizers.Sequence([split(QWEN2), byte_level()]), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    qwen2.normalizer = normalizers.NFC()
    yield "qwen2", edited(qwen2, lambda d: None)

    # Everything rare at once: split behaviors, a prefix space, added tokens of all kinds, missing bytes.
    rare = trained(texts, pre_tokenizers.Sequence(
        [split(r"[aeiou]", behavior="merged_with_next"), split(r"\p{Lu}", behavior="merged_with_previous"),
         split(r"\p{P}", behavior="contiguous"), split(r"\S+", behavior="removed", invert=True),
         pre_tokenizers.Split("oo", behavior="isolated"), pre_tokenizers.Digits(individual_digits=False),
         byte_level(add_prefix_space=True, use_regex=True)]), ["<s>", "</s>"])
    rare.normalizer = normalizers.Sequence([normalizers.NFC()])
    rare.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=True)
    rare.add_tokens([AddedToken("<mask>", lstrip=True), AddedToken("[USER]", rstrip=True, normalized=False),
                     AddedToken("fox", single_word=True), AddedToken("na\u00efve", normalized=True),
                     AddedToken("<|im", lstrip=True, rstrip=True, normalized=False), AddedToken("ana"), AddedToken("banana")])
    rare.add_special_tokens([AddedToken("<|im_start|>", normalized=False), AddedToken("o\u0308\u0323", normalized=False)])

    def drop_byte(data):
        ids, merges = data["model"]["vocab"], data["model"]["merges"]
        del ids["\u0122"]  # byte 0x80
        data["model"]["merges"] = [m for m in merges if "\u0122" not in m[0] + m[1]]
        for token in [t for t in ids if "\u0122" in t]:
            del ids[token]
        for new, token in enumerate(sorted(ids, key=ids.get)):
            ids[token] = new
        for new, added in enumerate(a for a in data["added_tokens"] if a["content"] not in ids):
            added["id"] = len(ids) + new
        data["model"].update(unk_token="<s>", fuse_unk=True)
    yield "rare", edited(rare, drop_byte)


def main():
    rng = random.Random(20261123)
    texts = make_texts(rng)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "texts.txt").write_text("".join(escape(t) + "\n" for t in texts))
    big = smollm2(sys.argv[1])
    (OUT / "smollm2.ids").write_text("".join(id_line(big, t, *flags(i)) + "\n" for i, t in enumerate(texts)))
    for offset, (name, (tokenizer, data)) in enumerate(small_tokenizers(texts)):
        offset %= 3
        (OUT / f"{name}.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")
        lines = [id_line(tokenizer, t, *flags(i)) for i, t in enumerate(texts[offset::3])]
        (OUT / f"{name}.ids").write_text("\n".join([str(offset)] + lines) + "\n")


if __name__ == "__main__":
    main()
