"""All heads over words and cells by name."""

from __future__ import annotations

from rank_xmodal.scorers.local.base import Local
from rank_xmodal.scorers.local.fusion import Fusion
from rank_xmodal.scorers.local.late_interaction import LateInteraction
from rank_xmodal.scorers.local.mgan import Mgan
from rank_xmodal.scorers.local.pool import Pool
from rank_xmodal.scorers.local.scan import Scan
from rank_xmodal.scorers.local.sgraf import Sgraf
from rank_xmodal.scorers.local.views import Views

_HEADS = (LateInteraction, Scan, Sgraf, Pool, Views, Mgan, Fusion)
HEADS: dict[str, type[Local]] = {head.name: head for head in _HEADS}
