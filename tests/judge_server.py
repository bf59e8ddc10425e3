"""An OpenAI-compatible server on the loopback, for tests: it says what a function tells it to, faults included."""

import json
import math
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from tutelage.model.batch import Packed
from tutelage.records import Message, Prompt
from tutelage.sample.engine import Engine
from tutelage.sample.sampler import SamplingParams

DROP = object()  # close the connection without a word


def chat(text, tokens=None, **message):
    """A chat completion; `tokens`: (token, {alternative: probability}) for each one written."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    if tokens is not None:
        choice["logprobs"] = {
            "content": [
                {"token": t, "logprob": math.log(top[t]), "top_logprobs": [alternative(a, p) for a, p in top.items()]}
                for t, top in tokens
            ]
        }
    usage = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}
    return 200, {}, json.dumps({"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})


def alternative(token, probability):
    return {"token": token, "logprob": math.log(probability), "bytes": None}


def soft(p):
    """The verdict A with probability p, by log-probabilities."""
    return chat("A" if p >= 0.5 else "B", [("A" if p >= 0.5 else "B", {"A": p, "B": 1 - p})])


def fault(status, said="no", **headers):
    return status, {k.replace("_", "-"): v for k, v in headers.items()}, said


class ChatServer:
    """`answer(body, how often this question came before)` is a response, a number of seconds to sleep, or DROP."""

    def __init__(self, answer):
        self.answer, self.requests, self.sent = answer, [], Counter()
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer._serve(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        question = body["messages"][-1]["content"]
        with self._lock:
            before = sum(question == other["messages"][-1]["content"] for _, _, _, other in self.requests)
            self.requests.append((time.monotonic(), handler.path, dict(handler.headers), body))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            said = self.answer(body, before)
            if isinstance(said, float):
                time.sleep(said)
                said = fault(500, "too late")
        finally:
            with self._lock:  # before a byte is sent: whoever has read the answer may ask again at once
                self._at_once -= 1
        try:
            if said is DROP:
                handler.close_connection = True
                return
            status, headers, text = said
            content = text.encode()
            handler.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                handler.send_header(name, value)
            handler.end_headers()
            handler.wfile.write(content)
            with self._lock:
                self.sent[question] += status == 200
        except (BrokenPipeError, ConnectionResetError):
            pass


def spoken_by(model):
    """What a model of ours answers: its likeliest letter or digit, with the probabilities of all it knows."""

    @torch.no_grad()
    def answer(body, _):
        tokenizer = model.tokenizer
        prompt = Prompt(messages=tuple(Message.model_validate(m) for m in body["messages"]))
        packed = Packed.of([tokenizer.prompt(prompt)])
        logits = model.decoder(packed)[packed.last] @ model.decoder.head_weight().T
        probability = logits[0].double().softmax(0).tolist()
        top = {tokenizer.decode([i]): p for i, p in enumerate(probability) if i < 256}
        token = max((t for t in top if t.isalnum()), key=top.get)
        return chat(token, [(token, top)])

    return answer


def written_by(model):
    """What a model of ours writes, token by token, and where it is asked for them the likeliest others of each."""
    tokenizer, alone = model.tokenizer, threading.Lock()  # a model answers one question at a time

    def answer(body, _):
        prompt = Prompt(messages=tuple(Message.model_validate(m) for m in body["messages"]))
        params = SamplingParams(max_tokens=body["max_tokens"], temperature=0)
        with alone, torch.no_grad():
            tokens = tokenizer.prompt(prompt)
            (one,) = Engine(model.decoder, tokenizer.end).generate([tokens], params, seed=0)
            said = list(one.tokens[:-1] if one.finish == "stop" else one.tokens)
            top = alternatives(model, tokens, said, body["top_logprobs"]) if body.get("logprobs") and said else None
        status, headers, text = chat(tokenizer.decode(one.tokens), top)
        return status, headers, text if one.finish == "stop" else text.replace('"stop"', '"length"')

    return answer


def alternatives(model, prompt, said, count):
    """Each token said, with the probabilities of the likeliest that could stand in its place and its own."""
    packed = Packed.of([[*prompt, *said]])
    states = model.decoder(packed)[len(prompt) - 1 : -1]
    probability = (states @ model.decoder.head_weight().T).double().softmax(1)
    decode, found = model.tokenizer.decode, []
    for token, row in zip(said, probability, strict=True):
        likeliest = {decode([i]): float(row[i]) for i in [*reversed(row.topk(count).indices.tolist()), token]}
        found.append((decode([token]), likeliest))
    return found
