"""gnvideo: video classification when only a few clips fit on a GPU."""

__version__ = "0.1.0"
