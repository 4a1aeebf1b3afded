"""Who has logged in: a name that is signed, for the browser to keep."""

from __future__ import annotations

import base64
import hashlib

from itsdangerous import BadSignature, TimestampSigner

from app.access import Access, User

MOST_S = 30 * 24 * 3600
SALT = "jingxiang session"


class Sessions:
    """The key of each user's sessions is made from the password. So nothing has to be kept, several servers with one
    password file know each other's sessions, they outlive a restart, and end with the password; those of a password
    that was made for one run end with the run. A session that somebody got hold of is good until then, or for `MOST_S`:
    logging out is only forgetting it.
    """

    def __init__(self, access: Access) -> None:
        """Takes some 0.1 s for each user: so does each password tried on a session that somebody got hold of."""
        self._access = access
        self._signers = {
            name: TimestampSigner(_key(name, password), salt=SALT, digest_method=hashlib.sha256)
            for name, password in access.passwords.items()
        }

    def begun(self, name: str) -> str:
        """A session of one of the users: text for a cookie."""
        written = base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")
        return self._signers[name].sign(written).decode()

    def user(self, session: str) -> User | None:
        """Whose session that is, if it is one."""
        written = session.partition(".")[0]
        try:
            name = base64.b64decode(written + "=" * (-len(written) % 4), b"-_", validate=True).decode()
            self._signers[name].unsign(session, max_age=MOST_S)
        except (BadSignature, ValueError, KeyError):
            return None
        return self._access.user(name)


def _key(name: str, password: str) -> bytes:
    """scrypt (RFC 7914) at the cost that its author gives for logging in: 16 MiB and 0.1 s."""
    return hashlib.scrypt(password.encode(), salt=f"{SALT} {name}".encode(), n=2**14, r=8, p=1, dklen=32)
