"""clipib: evaluate, fine-tune and explain CLIP checkpoints.

The functions behind every command live in `clipib.tasks` and print nothing:

    from clipib.tasks import zeroshot
    result = zeroshot("runs/a/best", "folder:photos/test", out="runs/b")
"""

__version__ = "0.1.0"
