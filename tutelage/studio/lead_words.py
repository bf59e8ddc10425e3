"""What the leads' pages say from code. English; `_` marks what is translated where it is shown."""

from collections.abc import Mapping

from tutelage.feedback.people import Role
from tutelage.feedback.work import State
from tutelage.studio.words import _

STATES: Mapping[State, str] = {"open": _("open"), "paused": _("paused"), "closed": _("closed")}
ROLES: Mapping[Role, str] = {"rater": _("rater"), "lead": _("lead"), "admin": _("administrator")}
FIGURES = {  # of drift
    "first_shown": _("first shown is better"),
    "longer": _("longer is better"),
    "ties": _("ties"),
    "agreement": _("agreement"),
}
RUNS = {
    "running": _("going on"),
    "done": _("done"),
    "interrupted": _("interrupted"),
    "failed": _("failed"),
    "killed": _("ended with the studio"),
}
YES, NO = _("yes"), _("no")
REMARKS = {"skip": _("skipped"), "flag": _("flagged")}
ACTIONS = {
    "open-batch": _("opened a batch"),
    "batch-open": _("resumed a batch"),
    "batch-paused": _("paused a batch"),
    "batch-closed": _("closed a batch"),
    "change-batch": _("changed a batch"),
    "add-guideline": _("wrote a guideline"),
    "invite": _("invited somebody"),
    "revoke-invitation": _("took an invitation back"),
    "join": _("joined"),
    "sign-in": _("signed in"),
    "sign-in-failed": _("failed to sign in"),
    "change-user": _("changed a person"),
    "change-password": _("changed the password"),
    "revoke-sessions": _("signed somebody out"),
    "issue-token": _("made an API token"),
    "revoke-token": _("revoked an API token"),
    "sample": _("had answers sampled"),
    "add-webhook": _("added a webhook"),
    "remove-webhook": _("turned a webhook off"),
    "replay-delivery": _("had an event sent again"),
    "export": _("exported"),
    "backup": _("made a backup"),
    "adjudicate": _("decided an item"),
    "settle-remark": _("settled a remark"),
    "reopen-remark": _("reopened a remark"),
    "erase": _("erased a person"),
}
FORMATS = {
    "tutelage": _("tutelage: every record whole"),
    "preference": _("preference pairs, as TRL reads them"),
    "unpaired": _("unpaired, one completion a line"),
    "prompt-completion": _("prompt and completion"),
    "prompt-only": _("prompts alone"),
    "language-modelling": _("text for language modelling"),
    "hh-rlhf": _("HH-RLHF pairs"),
    "pandalm": _("PandaLM"),
}
