"""Hide the name a model gives itself, so that a rater can't tell which model is speaking.

A reply may talk *about* models; that stays. Hidden is the name in a sentence that speaks of the speaker ("I am
ChatGPT", "ChatGPT here", 我是通义千问), and then everywhere in that reply. The project's own names are hidden
everywhere, where they cannot be words of a language (`smollm2-135m`, `runs/sft`).

Not found: a name that is spelled out, translated or described ("the model by the makers of Word").
"""

import re
from collections.abc import Sequence

MASK = "[name masked]"
CODED = (  # in any case; a version behind the name goes with it
    "chat gpt", "gpt", "open ai", "anthropic", "deep mind", "deep seek", "qwen", "qwq", "tongyi qianwen", "smollm",
    "hugging face", "mixtral", "chatglm", "ernie bot", "vicuna", "alpaca-7b", "moonshot ai", "zhipu", "baichuan",
    "internlm", "nemotron", "starcoder", "stablelm", "wizardlm", "open assistant", "meta ai", "google ai",
    "microsoft ai", "mistral ai", "alibaba cloud", "01.ai", "minimax", "olmo", "tinyllama", "codellama", "palm 2",
    "text-davinci",
)  # fmt: skip
WORDS = (  # names that are words too: with a capital only
    "Claude", "Gemini", "Gemma", "Llama", "LLaMA", "Mistral", "Bard", "Grok", "Phi", "Falcon", "Copilot", "Kimi",
    "Cohere", "Command R", "Sonnet", "Opus", "Haiku", "Yi", "Pythia", "Alpaca", "Dolly", "LaMDA", "PaLM", "Bing",
    "Sydney", "xAI", "Google", "Microsoft", "Meta", "Alibaba", "Baidu", "Tencent", "ByteDance", "Nvidia", "NVIDIA",
    "Doubao", "Hunyuan",
)  # fmt: skip
CHINESE = (
    "通义千问", "通义", "千问", "文心一言", "文心", "豆包", "混元", "智谱清言", "智谱", "月之暗面", "深度求索",
    "讯飞星火", "星火", "百川", "书生", "阿里云", "阿里巴巴", "百度", "腾讯", "字节跳动", "达摩院", "谷歌", "微软",
    "华为", "盘古",
)  # fmt: skip
SPEAKER = re.compile(
    r"\b(?:I|I['’]m|i['’]?m|i am|[Mm]y|[Mm]e|[Mm]yself|[Ww]e|[Oo]ur|[Uu]s|[Yy]ours)\b"
    r"|\b(?:[Nn]amed?|[Cc]alled?|here|[Ss]peaking)\b"
    r"|[我咱]|本人|本模型|本助手|名字|名叫|叫做|为您|为你"
)
SENTENCE = re.compile(r"[^.!?。！？\n]*(?:\.(?=\S)[^.!?。！？\n]*)*(?:[.!?。！？\n]+|\Z)")
# what may stand between two letters of a name
HIDDEN = "[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff\ufffd*_`~]{0,3}"
VERSION = rf"(?:{HIDDEN}[ \-–.]?{HIDDEN}v?\d[\w.\-]*\w|{HIDDEN}[ \-–.]?{HIDDEN}v?\d)?"


class Masker:
    """Knows the names to hide: the well-known ones, and the project's own."""

    def __init__(self, own: Sequence[str] = ()) -> None:
        """`own`: names of the project's models as they are written in settings, such as `models/smollm2-135m`."""
        parts = {part for name in own for part in (name, name.rstrip("/").rsplit("/", 1)[-1])}
        coded = sorted(part for part in parts if len(part) > 2 and re.search(r"[\d_/\-]", part))
        self.longest = max(40, *(len(name) + 8 for name in coded)) if coded else 40
        """How many characters a name, with its version and what hides in it, may have."""
        self._names = re.compile(
            "|".join((_any_of(CODED, "(?i:", VERSION), _any_of(WORDS, "(?:", VERSION), _any_of(CHINESE, "(?:")))
        )
        self._own = re.compile(_any_of(coded, "(?i:") if coded else r"(?!)")

    def whole(self, text: str) -> str:
        """The text of a finished reply, names of its speaker hidden."""
        text = self._own.sub(MASK, text)
        said = {
            _key(name)
            for sentence in SENTENCE.findall(text)
            if SPEAKER.search(sentence)
            for name in self._names.findall(sentence)
        }
        return self._names.sub(lambda found: MASK if _key(found[0]) in said else found[0], text) if said else text

    def growing(self, text: str) -> str:
        """The part of an unfinished reply that can be shown: every name hidden, the last characters held back.

        Only ever grows: it begins with what it was for any shorter beginning of the text. A name may be the speaker's
        until the sentence is over, so here all are hidden.
        """
        end, out, at = len(text) - self.longest, [], 0
        if end <= 0:
            return ""
        for found in sorted((*self._names.finditer(text), *self._own.finditer(text)), key=lambda m: m.start()):
            if found.start() >= end:
                break
            if found.start() >= at:
                out += [text[at : found.start()], MASK]
                at = found.end()
        return "".join(out) + text[at : max(at, end)]


def _any_of(names: Sequence[str], opening: str, ending: str = "") -> str:
    """A pattern for any of the names, longest first, with what may hide between their letters."""
    ordered = sorted(set(names), key=len, reverse=True)
    spelled = "|".join(HIDDEN.join(r"[ \-]?" if c in " -" else re.escape(c) for c in name) for name in ordered)
    if re.match(r"[\u4e00-\u9fff]", ordered[0]):
        return f"{opening}{spelled})"
    return rf"(?<![A-Za-z0-9])(?<![A-Za-z0-9]-){opening}{spelled}){ending}(?![A-Za-z0-9])"


def _key(name: str) -> str:
    """The name without version, case, and what hides in it, to know it again."""
    letters = re.sub(r"[^A-Za-z\u4e00-\u9fff]", "", name)
    return letters.lower()
