"""Models: the MoE layer, the experts behind its slots, and timm models made of them."""

from bench.model.backbone import moefy, seeded, site_of, widen
from bench.model.build import (
    TRANSFORMS,
    Parent,
    moe_seed,
    register_transform,
    starting_model,
    trial_model,
)
from bench.model.calibration import Calibration
from bench.model.classifier import image_classifier
from bench.model.expert_trials import expert_losses, losses_for
from bench.model.experts import (
    EXPERTS,
    Experts,
    MLPExperts,
    Replaced,
    ReplacedLinear,
    ReplacedMLP,
    ReplacedNetwork,
    build_experts,
    register_experts,
)
from bench.model.moe import Activations, MoELayer, moe_layers, reweighted
from bench.model.objective import Objective, autocast, naming_layer, unless_refused
from bench.model.origin import (
    Origin,
    defining_files,
    is_installed,
    model_origin,
    pretrained_hash,
    registering_modules,
    search_folders,
)
from bench.model.pruning import prune, refuse_undefined, shares_by
from bench.model.state import forward_pass
from routers.plugins import ELSEWHERE

# A plugin may register only a model.
ELSEWHERE.append(registering_modules)
