"""VideoMAE of Hugging Face, from a folder on this machine, as an encoder: its tokens averaged.

Example: VIDEOMAE=models/videomae-base tspbench extract --encoder docs/examples/videomae_encoder.py:VideoMAE \
    --videos clips/ --out F.h5
"""

import os

from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEModel

from tspbench.preprocessing import Preprocessing

FOLDER = os.environ["VIDEOMAE"]  # config.json and model.safetensors, as `hf download` leaves them
CONFIG = VideoMAEConfig.from_pretrained(FOLDER)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # preprocessor_config.json


class VideoMAE(nn.Module):
    # Sixteen frames, four apart in videos of 30 frames a second (VideoMAE, section 4.1).
    preprocessing = Preprocessing(CONFIG.num_frames, frame_rate=7.5, size=CONFIG.image_size, mean=MEAN, std=STD)
    feature_dim = CONFIG.hidden_size

    def __init__(self) -> None:
        super().__init__()
        self.model = VideoMAEModel.from_pretrained(FOLDER)

    def forward(self, clips: Tensor) -> Tensor:
        return self.model(clips.transpose(1, 2)).last_hidden_state.mean(dim=1)  # it wants (B, F, 3, H, W)
