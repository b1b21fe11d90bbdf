"""
page.py: in a browser: label, compare two policies blind, look at a run.

Paper: Ziegler et al. 2019, 2.3 and 2.4 (labels), 3.1.2 (win rates), appendix A
(instructions).
In:  the folder of a run, or a rho.pt; people      Out: labels.jsonl for rlhf.py --labels;
their win rates and agreement; a page
Not here: questions, answers, agreement (questions.py); what is told of a run (look.py);
what stands in the browser (page.html)

    python -m extras.page --out out/sentiment-seed0     # then open http://127.0.0.1:8000
    python -m extras.page --out out/sentiment-seed0 --save run.html     # without a server
    python -m extras.page --rho out/novel/rho.pt --to out/class --people 30 --host 0.0.0.0

Each person's answers are a file, NAME.jsonl, in the folder --to; labels.jsonl has all of
them, each question once. An answer is on disk before the next question shows. The server
keeps nothing else: after a stop the same command goes on.

Omitted: passwords. Whoever knows the code may answer under any name. Encryption: what is
sent over a network can be read there.
"""

import argparse
import hmac
import json
import math
import os
import re
import secrets
import shlex
import signal
import socket
import sys
import threading
import time
import unicodedata
from collections import Counter
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote

from extras.look import Look, save_page
from extras.questions import (LABELS, MOST_QUESTIONS, PAGE_LOCK, WORDING, Answers,
                              add_sampling_options, agreement, check_number, choices_of,
                              config_of, key_of, make_questions, merged, questions_file,
                              questions_of, refuse_folder_of_run, win_rate)
from reward import Comparison, write_comparisons
from rlhf import (Config, Parser, Progress, open_closed_streams, read_config_of,
                  whole_file)
from text import UserError

try:
    import fcntl
except ImportError:              # Windows, where nothing stops two pages in one folder
    fcntl = None

PAGE = Path(__file__).with_name("page.html")
MOST_PEOPLE = 500                # each is an open file
LONGEST_BODY = 100_000           # bytes; a request lists the skipped questions
RESERVED = r"labels$|(con|prn|aux|nul|com\d|lpt\d)($|\.)"      # these by Windows
LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "localhost", "::1": "[::1]"}
TELL_EVERY = 10                  # votes; told after each, a win rate would unblind it
ADVICE = (
    "Read the beginning, then all four continuations, and choose one with the keys 1 to 4"
    " or a click. Judge the continuations; the beginning is the same for all four. If two"
    " are equally good, take the one that reads better, or either of them. Skip only what"
    " you cannot judge at all.")


class Refused(Exception):
    """A request that cannot be answered: the status of HTTP, and one sentence."""

    def __init__(self, status, sentence):
        super().__init__(sentence)
        self.status = status


# --- everybody's answers ----------------------------------------------------------------

class People:
    """The Answers of everybody in a folder, NAME.jsonl each, open while the page runs."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.lock = threading.Lock()                     # of names
        self.writing = threading.Lock()                  # labels.jsonl
        self.changed = threading.Event()                 # since labels.jsonl was written
        self.answers = {}                                # by name
        for path in sorted(folder.glob("*.jsonl")):
            if path.name != LABELS:
                self.add(path)

    def add(self, path):
        """A file that is there, of this page or put there by hand."""
        try:
            name = checked_name(path.stem)
        except Refused:                                  # counts, but nobody has the name
            name = path.stem
        if name in self.answers:
            raise UserError(f"{self.answers[name].path} and {path} are of one name; "
                            "rename one of them")
        self.answers[name] = Answers(path)

    def of(self, name):
        """One person's Answers; a new file for a new name."""
        with self.lock:
            if name not in self.answers:
                if len(self.answers) >= MOST_PEOPLE:
                    raise UserError(f"there are {MOST_PEOPLE} names already")
                self.answers[name] = Answers(self.folder / f"{name}.jsonl")
            return self.answers[name]

    def comparisons(self):
        """{name: {question: Comparison}}: a copy, for others go on answering."""
        return {name: dict(answers.comparisons)
                for name, answers in sorted(self.answers.copy().items())}

    def write_labels(self):
        """labels.jsonl: all answers, no question twice."""
        with self.writing:                               # while people go on answering
            comparisons = merged(self.comparisons())
            with whole_file(self.folder / LABELS) as part:
                write_comparisons(part, comparisons)

    def keep_labels(self):
        """Write labels.jsonl soon after an answer, for as long as the page runs. Where
        that fails, people's own files still have every answer; it is tried again."""
        said = ""
        while True:
            self.changed.wait()
            self.changed.clear()
            started = time.time()
            try:
                self.write_labels()
                said = ""
            except OSError as e:
                self.changed.set()
                sentence = f"extras.page: {LABELS} could not be written: {e}"
                if sentence != said:
                    print(sentence, file=sys.stderr)
                said = sentence
            took = time.time() - started
            time.sleep(max(0.5, 20 * took))      # of many answers less often


class Poll:
    """A set of questions that people are asked.

    shown: what stands on whose page, so that no two people are at one question. It is not
    on disk: after a restart two may be, and then both answers are kept."""

    def __init__(self, questions, people, n, instructions, models):
        self.questions = {key_of(q.query, q.samples): q for q in questions}
        self.people, self.n = people, n
        self.instructions, self.models = instructions, models
        self.in_common = set(list(self.questions)[:number_in_common(n)])
        self.shown = {}                                  # name -> question
        self.lock = threading.Lock()

    def next_question(self, name, done, skipped):
        """Every fifth is one that everybody is asked. The others are those that fewest
        people have: none, while there are enough."""
        with self.lock:
            open_ones = [key for key in self.questions
                         if key not in done and key not in skipped]
            if self.shown.get(name) in open_ones:
                return self.shown[name]
            common = [key for key in open_ones if key in self.in_common]
            own = [key for key in open_ones if key not in self.in_common]
            self.shown.pop(name, None)
            if common and (len(done) % 5 == 0 or not own):
                self.shown[name] = common[0]
            elif own:
                taken = Counter(self.shown.values())
                for comparisons in self.people.comparisons().values():
                    taken.update(comparisons.keys())
                self.shown[name] = min(own, key=lambda key: taken[key])
            return self.shown.get(name)

    def state(self, name, skipped=(), note=""):
        """What a person's page shows next. last: what `undo` would take back."""
        answered = list(self.people.of(name).comparisons)
        done = [key for key in answered if key in self.questions]
        n = min(self.n, len(self.questions))
        question = None
        if len(done) < n:
            key = self.next_question(name, set(done), skipped)
            if key is not None:
                q = self.questions[key]
                question = {"id": key, "query": q.query, "samples": q.samples}
        last = None
        if answered and answered[-1] in self.questions:
            last = answered[-1]
        return {"question": question, "done": len(done), "n": n, "last": last,
                "note": note}

    def answer(self, name, key, best, skipped):
        """Write an answer, once, however often it is sent, and go on."""
        q, answers = self.questions.get(key), self.people.of(name)
        if q is None:
            return self.state(name, skipped, "That question is not one of today's; "
                              "nothing was written.")
        with answers.lock:
            earlier = answers.comparisons.get(key)
            if earlier is None:
                answers.add(Comparison(q.query, q.samples, best))
        self.people.changed.set()
        note = ""
        if earlier is not None and earlier.samples[earlier.best] != q.samples[best]:
            note = ("You had answered that question, perhaps in another window. The "
                    "first answer stands; Undo takes it back.")
        return self.state(name, skipped, note)

    def undo(self, name, key, skipped):
        """Take back the last answer, if it is to this question, and ask it again."""
        answers = self.people.of(name)
        note = ""
        with answers.lock:
            if list(answers.comparisons)[-1:] == [key]:
                answers.undo()
            # What is not there was taken back already: the request is sent again.
            elif key in answers.comparisons:
                note = "You have answered another one since; nothing was taken back."
        self.people.changed.set()
        self.show(name, key)
        return self.state(name, skipped, note)

    def show(self, name, key):
        with self.lock:
            self.shown[name] = key

    def results(self, name):
        """How a person stands to the others, and what is on disk.

        A win rate after every vote would tell whose sample was chosen. So a person's is
        of his first 10, 20, ... votes until he has answered all; then everybody's shows,
        too."""
        people = self.people.comparisons()
        choices = {key: texts for key, texts in choices_of(people).items()
                   if key in self.questions}
        results = {"people": len(set().union(*choices.values())),
                   "agreement": agreement(choices, name),
                   "agreement_of_all": agreement(choices),
                   "file": str(self.people.of(name).path)}
        if len(self.models) == 2:
            done = [key for key in people.get(name, {}) if key in self.questions]
            has_all = len(done) >= min(self.n, len(self.questions))
            if not has_all:
                done = done[:len(done) // TELL_EVERY * TELL_EVERY]
            counted = {key: choices[key] for key in done}
            results["win_rate"] = win_rate(counted, self.questions, name)
            results["win_rate_of_all"] = None
            if has_all:
                results["win_rate_of_all"] = win_rate(choices, self.questions)
        return results


def number_in_common(n):
    """How many of a person's n questions are asked of everybody, too."""
    return math.ceil(n / 5)


# --- what the server knows --------------------------------------------------------------

class Site:
    """The polls, the run that is looked at, and the code that is asked for, if any.

    train_command: what learns from the labels."""

    def __init__(self, polls, look, code, train_command):
        self.polls, self.look, self.code = polls, look, code
        self.train_command = train_command

    def about(self):
        """What a page must know before it asks anything else."""
        polls = {title: {"instructions": poll.instructions, "models": poll.models,
                         "n": poll.n}
                 for title, poll in self.polls.items()}
        return {"polls": polls, "look": self.look is not None,
                "train_command": self.train_command}

    def curves(self, start):
        """The run, its curves from line `start` of its metrics.jsonl on."""
        if self.look is None:
            raise Refused(404, "This page was started without the --out of a run.")
        return self.look.state(start)

    def view(self):
        """Its samples; null while they are made."""
        return None if self.look is None else self.look.view()

    def reply_to(self, what, body):
        """The answer to a person's request, a dictionary."""
        poll = self.polls.get(text_in(body, "poll"))
        if poll is None:
            raise Refused(404, "There is no such poll on this page.")
        name = checked_name(text_in(body, "name"))
        if what == "results":
            return poll.results(name)
        skipped = texts_in(body, "skipped")
        if what == "next":
            if "show" in body:
                poll.show(name, text_in(body, "show"))
            return poll.state(name, skipped)
        key = text_in(body, "id")
        if what == "undo":
            return poll.undo(name, key, skipped)
        best = body.get("best")
        if type(best) is not int or not 0 <= best <= 3:
            raise Refused(400, "best must be 0, 1, 2 or 3.")
        return poll.answer(name, key, best, skipped)


def text_in(body, field):
    value = body.get(field)
    if not isinstance(value, str):
        raise Refused(400, f"{field} must be a text.")
    return value


def texts_in(body, field):
    value = body.get(field, [])
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise Refused(400, f"{field} must be a list of texts.")
    return set(value)


def checked_name(name):
    """A name as a file can have it; upper and lower case are one, as on some disks."""
    name = unicodedata.normalize("NFC", " ".join(name.split())).casefold()
    # casefold leaves a dot above the small letter of the Turkish capital I with a dot.
    name = unicodedata.normalize("NFC", name).replace("i\u0307", "i")
    name = name.replace("\u2019", "'")
    # Letters, marks (vowels of Devanagari, Thai or Arabic) and numbers.
    kinds = [unicodedata.category(c)[0] for c in name]
    fits = 1 <= len(name) <= 40 and kinds[0] in "LN" and not name.endswith(".")
    fits = fits and all(kind in "LMN" or c in "_ '-." for kind, c in zip(kinds, name))
    if not fits or re.match(RESERVED, name):
        raise Refused(400, "A name has 1 to 40 letters, digits, spaces, _, ', - and ., "
                      "begins with a letter or a digit, does not end with a period, and "
                      "is not \"labels\" or a device of Windows.")
    return name


# --- HTTP -------------------------------------------------------------------------------

class Server(ThreadingHTTPServer):
    request_queue_size = 128         # a class opens the page at one time
    daemon_threads = True

    def __init__(self, address, site):
        self.site = site
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Handler)

    def handle_error(self, request, client_address):
        """Somebody closed his page while he was answered. Anything else is shown."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"    # a browser keeps its connection
    disable_nagle_algorithm = True
    timeout = 60                     # seconds; whoever sends nothing is let go
    wbufsize = -1                    # head and body of a reply go out together

    def do_GET(self):
        self.reply_with(self.get)

    def do_POST(self):
        self.reply_with(self.post)

    def reply_with(self, function):
        """Whatever is wrong with a request, it is one sentence."""
        try:
            function()
        except Refused as e:
            self.send(e.status, {"error": str(e)})
        except UserError as e:
            self.send(409, {"error": str(e)})
        except (ConnectionError, TimeoutError):
            raise
        except Exception as e:           # the page says it, and the terminal all of it
            self.close_connection = True
            self.send(500, {"error": f"The server could not do this: {e!r}."})
            raise

    def get(self):
        """The page itself; what it is about; the curves and the view of a run."""
        path, _, query = self.path.partition("?")
        if path == "/":
            self.check_host()
            return self.send(200, PAGE.read_bytes(), "text/html; charset=utf-8")
        self.check_code()
        if path == "/api/about":
            return self.send(200, self.server.site.about())
        if path == "/api/view":
            return self.send(200, self.server.site.view())
        if path == "/api/run":
            start = parse_qs(query).get("start", ["0"])[0]
            if not re.fullmatch("[0-9]{1,9}", start):
                raise Refused(400, "start must be a number.")
            return self.send(200, self.server.site.curves(int(start)))
        raise Refused(404, "There is nothing at this address.")

    def post(self):
        """What a person does: ask for the next question, answer, undo, see results."""
        body = self.body()
        self.check_code()
        what = self.path.removeprefix("/api/")
        if what not in ("next", "answer", "undo", "results"):
            raise Refused(404, "There is nothing at this address.")
        try:
            reply = self.server.site.reply_to(what, body)
        except OSError as e:
            raise Refused(507, f"Nothing was written, for the disk says: {e}") from None
        self.send(200, reply)

    def body(self):
        """The JSON object that was sent."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length):
            self.close_connection = True
            raise Refused(411, "A request must say how long it is.")
        if int(length) > LONGEST_BODY:
            self.close_connection = True         # what was sent stays unread
            raise Refused(413, f"A request has at most {LONGEST_BODY:,} bytes.")
        data = self.rfile.read(int(length))
        # Other sites' pages can send a form without asking, but no JSON.
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "A request must be JSON.")
        try:
            body = json.loads(data)
        except (ValueError, RecursionError):
            raise Refused(400, "That is not JSON.") from None
        if not isinstance(body, dict):
            raise Refused(400, "A request must be a JSON object.")
        return body

    def check_host(self):
        """Against DNS rebinding: on loopback only loopback's names are answered."""
        host = re.sub(r":\d*$", "", self.headers.get("Host", "")).strip("[]").lower()
        if self.server.site.code is None and host not in LOOPBACK:
            raise Refused(403, "This page is for the machine it runs on.")

    def check_code(self):
        """401 where a code is asked for and another one, or none, was sent."""
        self.check_host()
        code = self.server.site.code
        given = unquote(self.headers.get("X-Code", ""))
        if code is not None and not hmac.compare_digest(given.encode(), code.encode()):
            time.sleep(0.5)                              # for whoever tries many
            raise Refused(401, "This page asks for a code.")

    def send(self, status, content, kind="application/json"):
        """content: bytes as they are; anything else as JSON."""
        if not isinstance(content, bytes):
            content = json.dumps(content, allow_nan=False).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy",
                         "default-src 'none'; style-src 'unsafe-inline'; script-src "
                         "'unsafe-inline'; connect-src 'self'; img-src data:; "
                         "frame-ancestors 'none'")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format, *args):
        """Nothing: the terminal shows the address and the code."""


# --- from the command line to a page ----------------------------------------------------

def make_polls(options, cfg, people):
    """{title: Poll}: Label, and Compare where there is a policy.

    With --policy the votes are labels, too, as in the paper's online collection (2.3):
    they are about queries that r may learn from, and stand in the same files. Without,
    they are about held-out queries (3.1.2), and are kept apart."""
    common = number_in_common(options.n)
    total = common + options.people * (options.n - common)

    def questions(policies, part):
        make = partial(make_questions, cfg, policies, part, Progress("questions"))
        file = questions_file(people.folder, cfg, policies, part)
        return questions_of(file, total, make)

    instructions = read_instructions(options.instructions)
    if not instructions:
        instructions = f"{WORDING[cfg.task]}\n\n{ADVICE}"
    polls = {"label": Poll(questions([""], "reward"), people, options.n, instructions,
                           ["rho"])}
    policy, opponent = policies_of(options)
    if policy:
        part, voters = "evaluation", People(people.folder / "votes")
        if options.policy:
            part, voters = "reward", people
        names = [options.policy or "pi", opponent or "zero-shot rho"]
        polls["compare"] = Poll(questions([policy, opponent], part), voters, options.n,
                                instructions, names)
    return polls


def policies_of(options):
    """The paths of two policies to compare, "" for rho: --policy, or the run's own, and
    --opponent. "", "" where there is none."""
    policy = options.policy
    if not policy and options.out and Path(options.out, "policy.pt").exists():
        policy = str(Path(options.out, "policy.pt"))
    if options.opponent and not policy:
        raise UserError("--opponent needs a --policy, or the --out of a finished run")
    return policy, options.opponent


def read_instructions(given):
    """What people are told: a text file, or the words themselves. What ends as a text
    file's name is one, so that a slip in it is no instruction."""
    is_file = os.path.isfile(given)              # False for what is too long for a name
    is_name = len(given.split()) == 1 and given.strip().endswith((".txt", ".md"))
    if not is_file and not is_name:
        return given.strip()
    try:
        return Path(given).read_text("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise UserError(f"{given}: not UTF-8 text") from None


@contextmanager
def page_folder(folder):
    """A folder of answers, with one page at a time."""
    refuse_folder_of_run(folder)
    if (folder / LABELS).exists() and not (folder / PAGE_LOCK).exists():
        raise UserError(f"{folder / LABELS} was not made by a page, which would write "
                        "over it; rename it to NAME.jsonl, to count as NAME's answers")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / PAGE_LOCK, "w") as lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another page is at work in {folder}; stop it, or give "
                            "another --to") from None
        yield


def code_of(options, folder):
    """The code that a page on a network asks for; the same after a restart. None on
    loopback, if none is given."""
    if options.code:
        return options.code
    if options.host in LOOPBACK:
        return None
    path = folder / "code.txt"
    if not path.exists() or not path.read_text().strip():
        with whole_file(path) as part:
            part.touch(0o600)
            letters = [secrets.choice("abcdefghjkmnpqrstuvwxyz") for _ in range(8)]
            part.write_text("".join(letters))
    return path.read_text().strip()


def train_command(cfg, folder):
    """How to learn from the labels in a folder."""
    words = ["python", "rlhf.py", "--rho", cfg.rho, "--labels", str(folder / LABELS)]
    for f in fields(Config):
        if f.name in ("task", "response_length", "truncate_after", "temperature"):
            if getattr(cfg, f.name) != f.default:
                words += [f"--{f.name}", str(getattr(cfg, f.name))]
    return shlex.join([*words, "--out", str(folder / "run")])


def address_of(host, port, code):
    """What people open; with a code, as a link that has it."""
    if host in LOOPBACK:
        host = LOOPBACK[host]
    elif host in ("0.0.0.0", "::"):              # all of the machine's addresses
        host = socket.gethostname()
    elif ":" in host:
        host = f"[{host}]"
    if code is None:
        return f"http://{host}:{port}/"
    return f"http://{host}:{port}/?code={quote(code, safe='')}"


def serve(options, cfg, look):
    """Serve the page until Ctrl-C."""
    folder = Path(options.to or Path(options.out, "people"))
    polls = {}
    with page_folder(folder):
        people = People(folder)
        if cfg.rho:
            polls = make_polls(options, cfg, people)
        code = code_of(options, folder)
        try:
            site = Site(polls, look, code, train_command(cfg, folder))
            server = Server((options.host, options.port), site)
        except OSError as e:
            raise UserError(f"port {options.port} of {options.host}: {e.strerror}; give "
                            "another --port or --host") from None
        people.write_labels()
        threading.Thread(target=people.keep_labels, daemon=True).start()
        address = address_of(options.host, server.server_port, code)
        print(f"{address}   (Ctrl-C ends it)", flush=True)
        if code is not None:
            print(f"the code is {code}", flush=True)
        try:
            server.serve_forever()
        finally:
            people.write_labels()


def read_options(argv):
    """The options of a command line; UserError says what cannot be."""
    parser = Parser(prog="python -m extras.page", description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", default="", help="the folder of a run, finished or at work, to look at")
    add("--save", default="", help="write the look at --out to this file, and end")
    add("--rho", help="a rho.pt whose samples are labeled; that of --out if not given")
    add("--to", default="", help="folder of answers; people/ in --out if not given")
    add("--policy", default="", help="a policy.pt of this rho, to compare; votes on it "
        "are labels, too. If not given, the run's, and votes are kept apart")
    add("--opponent", default="", help="a policy.pt to compare it with; rho if not given")
    add("--instructions", default="", help="what to choose by: a text file, or the words")
    add("--n", type=int, default=40, help="questions to each person (here: 40)")
    add("--people", type=int, default=1, help="how many people are expected (here: 1)")
    add("--host", default="127.0.0.1", help="address to serve at; 0.0.0.0 is all of the "
        "machine's, and then a code is asked for (here: 127.0.0.1)")
    add("--port", type=int, default=8000, help="(here: 8000; 0: any that is free)")
    add("--code", default="", help="the code to ask for; if not given, a random one, "
        "or none on loopback")
    add_sampling_options(parser, instead="the run's; without one, ")
    options = parser.parse_args(argv)
    check_number("people", options.people, MOST_PEOPLE)
    check_number("n", options.n, MOST_QUESTIONS // options.people)
    if not 0 <= options.port <= 65535:
        raise UserError(f"--port is {options.port}, but must be 0 to 65535")
    if not re.fullmatch("[!-~]{0,80}", options.code):
        raise UserError("--code must be of at most 80 letters, digits and signs (ASCII)")
    if options.save:
        check_save(Path(options.save))
    if not options.out and (options.save or not options.rho or not options.to):
        raise UserError("give the --out of a run; or, to label alone, a --rho and a --to")
    return options


def check_save(path):
    """Refuse to write a page over what is none, such as a model."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--save is {path}, but a page's name ends with .html")
    if path.exists() and not path.read_bytes()[:15].lower() == b"<!doctype html>":
        raise UserError(f"{path} is there, and is not a page; give another --save")


def main(argv=None):
    """Run a command; return 0, or 2 after one sentence on what the user can mend."""
    open_closed_streams()
    try:
        options = read_options(argv)
        look, cfg = None, Config()
        if options.out:
            if not Path(options.out, "config.json").exists():
                raise UserError(f"{options.out} is not the folder of a run")
            rho = Path(options.out, "rho.pt")
            rho = str(rho) if rho.exists() else ""       # a run that has just begun
            cfg = read_config_of(Path(options.out))
            cfg = replace(cfg, rho=rho, labels="", text="", device="")
        cfg = config_of(options, cfg)
        if options.out:
            look = Look(Path(options.out), cfg.device)
        if options.save:
            look.say = print                             # it takes a minute or two
            page = PAGE.read_text("utf-8")
            size = save_page(look, page, Path(options.save))
            print(f"{options.save} has {size / 1e6:.1f} MB, and opens without a server")
        else:
            serve(options, cfg, look)
        return 0
    except KeyboardInterrupt:
        print("\nextras.page: stopped; every answer is kept", file=sys.stderr)
    except (UserError, FloatingPointError, OSError) as e:
        print(f"extras.page: {e}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
