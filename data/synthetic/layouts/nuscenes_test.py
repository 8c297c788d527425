"""Streets in the layout of nuScenes' v1.0-test: what a server scores. See ``nuscenes``."""

from __future__ import annotations

from ssl3d.data.synthetic.layouts.base import StreetLayout
from ssl3d.data.synthetic.layouts.nuscenes import TEST, NuScenesLayout

LAYOUT: StreetLayout = NuScenesLayout("nuscenes-test", TEST)
