import json
import subprocess
import sys

import open_clip

from clipib.models.sources import BUILT_IN


def test_the_list_without_torch_is_open_clips_own():
    code = (
        "import json, sys\n"
        "from clipib.models.catalog import list_architectures\n"
        "found = list_architectures()\n"
        "left = [m for m in sys.modules if m.partition('.')[0] in ('torch', 'open_clip', '_open_clip_tables')]\n"
        "print(json.dumps([found, left, 'safetensors.torch' in sys.modules]))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    found, left, hidden = json.loads(output)
    assert left == [] and not hidden
    built_in = {name: tags for name, tags in found.items() if name not in BUILT_IN}
    expected = [name for name in open_clip.list_models() if name not in BUILT_IN]
    assert list(built_in) == expected
    assert built_in == {name: open_clip.list_pretrained_tags_by_model(name) for name in expected}
