"""How long 1,000 embedded images take on one core: ``python tests/benchmarks/drawing.py [n]``, by hand.

The bound is 55 s of processor time for tissue and for flowers at 128 px, on a quiet machine: another process on
the same core makes even processor time up to a quarter longer. The two are drawn in turns, n images each.
"""

import sys
import time

from sedm.data.drawn.canvas import one_thread_products
from sedm.data.drawn.flowers import draw_image
from sedm.data.drawn.tissue import draw_patch

SIZE, PER_GROUP = 128, 4


def main(n: int) -> None:
    tasks = {"tissue": draw_patch, "flowers": draw_image}
    seconds = dict.fromkeys(tasks, 0.0)
    with one_thread_products():
        for draw in tasks.values():
            draw(1, 0, 0, SIZE)  # what is made once, such as splines, is not counted
        for index in range(n):
            for name, draw in tasks.items():
                begin = time.process_time()
                draw(0, index // PER_GROUP, index % PER_GROUP, SIZE)
                seconds[name] += time.process_time() - begin
    for name, total in seconds.items():
        print(f"{name:8} {1000 * total / n:6.1f} s of processor time for 1,000 images of {SIZE} px ({n} drawn)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
