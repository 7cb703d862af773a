import subprocess
import sys


def test_a_fresh_process_can_import_open_clip():
    code = (
        "from rank_xmodal.torchvision_ops import make_importable as m; m(); m(); import open_clip, torchvision;"
        "from torchvision.transforms import Resize; assert 'ViT-B-32' in open_clip.list_models(); print('fine')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "fine"
