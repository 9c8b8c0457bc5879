"""The form of a piece of Python: what does not count, and that it is the same everywhere."""

import ast
import hashlib
import textwrap
from pathlib import Path

import pytest

from pipeline.store.syntax import text_of

ROOT = Path(__file__).parents[2]
# of the text in the last test, as Python 3.11 gives it
FORM = "daf8baa650b5cd09b305515f6c7fdd07804aafee7cd3c311168afee47c47c82d"


@pytest.mark.parametrize("package", ["core", "store", "data", "train"])
def test_formatting_alone_never_counts(package):
    for path in sorted((ROOT / "pipeline" / package).rglob("*.py")):
        tree = ast.parse(path.read_bytes())
        assert text_of(tree.body) == text_of(ast.parse(ast.unparse(tree)).body), path


def test_the_form_of_syntax_is_the_same_on_every_python():
    text = '''
    async def f(a, /, *b, c=None, d='', **e) -> int:
        """Said."""
        async with a as x, b[1:2, ...]: y: int = 0x10
        z = f"a{a!r:>{c}}b" "c" + u"d" + b"e".decode()
        match z:
            case [1, *_] | {"k": None, **rest} if rest: return (w := 1_000)
        try: ...
        except (A, B) as error: raise C from error
        return lambda q=(): [i async for i in q if not i], 1.5e3, 2j, ()
    '''
    form = text_of(ast.parse(textwrap.dedent(text)).body)
    assert hashlib.sha256(form.encode()).hexdigest() == FORM
