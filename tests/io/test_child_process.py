import subprocess
import sys

PARENT = """
import multiprocessing, time
from brainfeat.io.child_process import end_with_parent

def work():
    end_with_parent()
    print("working", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(60)
"""


def test_a_process_does_not_outlive_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"working\n"
    parent.kill()
    parent.communicate(timeout=20)  # what the child has open, too, is closed
