import pytest
from click.testing import CliRunner

from zoo.cli.main import main


@pytest.fixture
def run():
    """Run the command line in this process; gives exit code, stdout and stderr."""

    def call(*arguments, stdin=None):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout, done.stderr

    return call
