"""Small vocabularies of every kind, made by the libraries that people used: tokenizers and transformers."""

import json
import random

import pytest

LINES = [
    "The quick brown fox jumps over the lazy dog, and every effort moves you forward; isn't it? 12345",
    "안녕하세요. 오늘은 날씨가 좋습니다. 한국어 문장을 하나 더 씁니다.",
    "今天天气很好，我们去公园散步。学习语言需要时间和耐心。",
    "Сегодня хорошая погода, и мы идём гулять в парк. Каждое усилие важно.",
    "आज मौसम अच्छा है और हम पार्क में घूमने जा रहे हैं।",
    "الطقس جميل اليوم ونحن ذاهبون إلى الحديقة للتنزه.",
] * 20

_SCRIPTS = [
    "abcdefghij KLMNOP'st re,.!?0123456789",
    "안녕하세요오늘은날씨가좋습니다 .",
    "今天天气很好我们去公园，。 学",
    "Сегодня хорошая погода ёй,",
    "आज मौसम अच्छा है।ाि्",
    "الطقس جميل اليوم، ",
]
_ODD = [
    "",
    " ",
    "  ",
    "\n",
    "\t x",
    "e\u0301",
    "\u00a0",
    "\u200b",
    "😀👩‍👩‍👧",
    "\ufeff",
    "İ",
    "ß",
    "ﬁ",
    "½",
    "<s>",
    "[MASK]",
    "<new>",
]


def odd_strings(n=500, seed=7):
    """Strings of six scripts, mixed and alone, with blanks, combining marks, emoji and special tokens between them."""
    draw = random.Random(seed)
    texts = list(_ODD)
    while len(texts) < n:
        scripts = draw.sample(_SCRIPTS, draw.choice([1, 1, 2, 3]))
        pieces = ["".join(draw.choices(draw.choice(scripts), k=draw.randint(1, 12))) for _ in range(draw.randint(1, 5))]
        if draw.random() < 0.4:
            pieces.insert(draw.randrange(len(pieces) + 1), draw.choice(_ODD))
        texts.append("".join(pieces))
    return texts


def _train(library, model, trainer, **parts):
    tokenizer = library.Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def byte_level(library, **settings):
    """GPT-2's own kind, as ByteLevelBPETokenizer trains it."""
    trainer = library.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    splitting = library.pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **settings})
    return _train(library, library.models.BPE(), trainer, pre_tokenizer=splitting, decoder=library.decoders.ByteLevel())


def metaspace(library):
    """BPE after Metaspace, as in Korean GPT-2s."""
    trainer = library.trainers.BpeTrainer(
        vocab_size=500, special_tokens=["</s>", "<pad>", "<unk>"], show_progress=False
    )
    return _train(
        library,
        library.models.BPE(unk_token="<unk>", fuse_unk=True),
        trainer,
        normalizer=library.normalizers.NFKC(),
        pre_tokenizer=library.pre_tokenizers.Metaspace(),
        decoder=library.decoders.Metaspace(),
    )


def unigram(library):
    """SentencePiece's other model, with a normaliser."""
    trainer = library.trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    return _train(
        library,
        library.models.Unigram(),
        trainer,
        normalizer=library.normalizers.Sequence([library.normalizers.NFKC(), library.normalizers.StripAccents()]),
        pre_tokenizer=library.pre_tokenizers.Metaspace(),
        decoder=library.decoders.Metaspace(),
    )


def sequence(library):
    """Digits apart, then byte-level BPE with its own splitting pattern."""
    split = library.pre_tokenizers.Split(library.Regex(r"\p{N}| ?\p{L}+|\s+|[^\s\p{L}\p{N}]+"), "isolated")
    splitting = library.pre_tokenizers.Sequence(
        [split, library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    trainer = library.trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    return _train(library, library.models.BPE(), trainer, pre_tokenizer=splitting, decoder=library.decoders.ByteLevel())


def save(directory, tokenizer, **settings):
    """Write tokenizer.json and tokenizer_config.json, as transformers does."""
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def _json(name, **settings):
    def make(directory):
        library = pytest.importorskip("tokenizers")
        return save(directory, globals()[name](library), tokenizer_class="PreTrainedTokenizerFast", **settings)

    return make


def _prefix_space(directory):
    """Byte-level BPE that puts a space before the text."""
    library = pytest.importorskip("tokenizers")
    return save(directory, byte_level(library), tokenizer_class="GPT2Tokenizer", add_prefix_space=True)


def _pair(directory):
    """The two files of ByteLevelBPETokenizer.save_model."""
    library = pytest.importorskip("tokenizers")
    directory.mkdir()
    byte_level(library).model.save(str(directory))
    return directory


def _added(directory):
    """A vocabulary whose tokenizer_config.json adds tokens; an older vocab.json lies beside the newer files."""
    library = pytest.importorskip("tokenizers")
    tokenizer = byte_level(library)
    directory.mkdir()
    tokenizer.model.save(str(directory))
    n = tokenizer.get_vocab_size()
    added = {
        str(n): {"content": "<new>", "lstrip": True, "special": True, "normalized": False},
        str(n + 1): {"content": "오늘은", "special": False, "normalized": False},
    }
    tokenizer.add_special_tokens([library.AddedToken("<new>", lstrip=True, normalized=False)])
    tokenizer.add_tokens([library.AddedToken("오늘은", normalized=False)])
    return save(directory, tokenizer, tokenizer_class="GPT2Tokenizer", added_tokens_decoder=added)


def _wordpiece(directory):
    """BERT's vocab.txt, as in Chinese GPT-2s."""
    library = pytest.importorskip("tokenizers")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = library.trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    tokenizer = _train(
        library,
        library.models.WordPiece(unk_token="[UNK]"),
        trainer,
        normalizer=library.normalizers.BertNormalizer(),
        pre_tokenizer=library.pre_tokenizers.BertPreTokenizer(),
    )
    directory.mkdir()
    tokenizer.model.save(str(directory))
    (directory / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    return directory


KINDS = {
    "byte-level BPE": _json("byte_level"),
    "byte-level BPE, two files": _pair,
    "byte-level BPE, prefix space": _prefix_space,
    "byte-level BPE, added tokens": _added,
    "Metaspace BPE": _json("metaspace", eos_token="</s>", pad_token="<pad>"),
    "Unigram": _json("unigram", bos_token="<s>", eos_token="</s>"),
    "sequence": _json("sequence"),
    "WordPiece": _wordpiece,
}
"""Kind -> what writes the tokenizer's files of one into a new directory and returns it."""
