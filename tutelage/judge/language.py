"""Which language a text is in: by its script, and where several share one, by letters and words that only one has.

A rule of thumb for whole answers, without a trained model: 28 languages, and none for what it cannot tell.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping

WORDS: Mapping[str, str] = {
    "en": "the and of to is in that it for with was are this you be have not on as a an or by from can your",
    "de": "der die und das ist nicht ein eine mit auf den für sie ich zu von auch wir es im",
    "fr": "le les et des est une dans pour que qui pas vous nous sur avec du au ce il je",
    "es": "el los las y es una para por que con no del su lo más como pero muy está al",
    "pt": "o os as e é uma para por que com não do da em no na mais como mas você",
    "it": "il gli e è una per che con non del della di sono nel più come ma anche si la",
    "nl": "de het een en is van niet dat ik je met voor op te zijn aan er maar ook die",
    "sv": "och att det som är en på för med inte jag av den till har om ett men så vi",
    "fi": "ja on ei se että oli hän kun mutta tai myös joka ovat ole minä nyt niin sen mitä kuin",
    "pl": "i w nie na się że to jest z do jak ale po co tak za od przez dla są",
    "tr": "ve bir bu için de da çok ile ne gibi daha ben mi var olarak ama sonra en kadar o",
    "vi": "và của là có không được một cho trong người những với các này đã để khi tôi bạn ở",
    "id": "dan yang di itu dengan untuk tidak ini dari dalam akan pada juga saya ke karena ada mereka oleh kita",
    "sw": "na ya wa ni kwa katika la za kama hii cha hiyo si au yake watu sana lakini ambayo mimi",
}
CYRILLIC: Mapping[str, str] = {
    "ru": "и в не на что я с он как это но по из у за то все так же для",
    "bg": "и в не на че се е да са от за като по със ще това има или бе със",
    "uk": "і в не на що я з він як це але по із та за то все так для є",
}
LETTERS: Mapping[str, Mapping[str, str]] = {
    "CYRILLIC": {"uk": "іїєґ", "ru": "ыэё"},
    "ARABIC": {"ur": "ٹڈڑےںہھ", "fa": "پچژگکی"},
}
"""Letters that one language of a script has and the ones behind it lack."""
LEAST = 0.005  # of a text's letters must be such letters: a foreign name is no proof
DEVANAGARI: Mapping[str, str] = {
    "hi": "है हैं के का की में और से को पर नहीं यह कि एक था भी कर लिए ने हो",
    "mr": "आहे आहेत आणि च्या मध्ये नाही ते हे एक होते साठी की तो ही हा आपण मी करून त्या ला",
    "ne": "छ छन् र को मा लाई का हो यो गर्न पनि एक छैन भएको हुन्छ गरेको त म हामी तपाईं",
}
SCRIPTS: Mapping[str, str] = {
    "KANNADA": "kn", "TELUGU": "te", "TAMIL": "ta", "GUJARATI": "gu", "GURMUKHI": "pa", "BENGALI": "bn", "THAI": "th",
    "HANGUL": "ko", "HEBREW": "he", "GREEK": "el", "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh",
}  # fmt: skip


def language_of(text: str) -> str | None:
    """ISO 639-1 code of the language most of a text is in; None when there is no telling."""
    scripts = Counter(unicodedata.name(c, "?").split()[0] for c in text if c.isalpha())
    if not scripts:
        return None
    if scripts["HIRAGANA"] + scripts["KATAKANA"] > scripts["CJK"] / 10:
        scripts["HIRAGANA"] += scripts.pop("CJK", 0)  # Japanese is written with Chinese characters among its own
    script, count = scripts.most_common(1)[0]
    for code, letters in LETTERS.get(script, {}).items():
        if sum(text.lower().count(letter) for letter in letters) > LEAST * count:
            return code
    match script:
        case "LATIN":
            return _by_words(text, WORDS)
        case "CYRILLIC":
            return _by_words(text, CYRILLIC)
        case "DEVANAGARI":
            return _by_words(text, DEVANAGARI)
        case "ARABIC":
            return "ar"
        case _:
            return SCRIPTS.get(script)


def _by_words(text: str, known: Mapping[str, str]) -> str | None:
    """The language with the largest share of the text's words among its own; None when no word is known."""
    letters = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text.lower())
    words = Counter("".join(letters).split())
    hits = {code: sum(words[w] for w in set(own.split())) for code, own in known.items()}
    best = max(hits, key=lambda code: hits[code])
    return best if hits[best] else None
