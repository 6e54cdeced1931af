"""Every key that prompt_das adds to Detectron2's config: its default (the paper's setting) and why."""

from __future__ import annotations

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg


def add_prompt_das_config(cfg: CN) -> None:
    """Add the keys below to ``cfg`` (from ``detectron2.config.get_cfg()``) and set the paper's defaults."""
    _c = cfg

    # Modules that register parts of the network: .py files, modules, or entry points of the group "prompt_das.plugins".
    # Those given by --plugin are kept here. Never imported because a file of weights names them.
    _c.PLUGINS = ()

    # ------------------------------------------------------------------------------------------------- network
    _c.MODEL.META_ARCHITECTURE = "PromptDAS"
    _c.MODEL.BACKBONE.NAME = "build_vit_backbone"
    _c.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]  # ImageNet's: the encoder may start from DINO weights
    _c.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    # Matrix products in "float32" or "bfloat16"; losses, EMA and weights stay float32, and so does all of it on a
    # device without instructions for bfloat16.
    _c.MODEL.PRECISION = "float32"

    # Backend of torch.compile, "inductor" for example; "" runs the network as it is written. The first batches take
    # minutes; what it gains on a GPU is not measured.
    _c.MODEL.COMPILE = ""
    # Whether a training on one GPU replays the passes of the network as CUDA graphs, where COMPILE is "". Off until it
    # has been measured on one: docs/PERFORMANCE.md.
    _c.MODEL.CUDA_GRAPHS = False

    _c.MODEL.VIT = CN()  # ViT-S/8
    _c.MODEL.VIT.PATCH_SIZE = 8
    _c.MODEL.VIT.EMBED_DIM = 384
    _c.MODEL.VIT.DEPTH = 12
    _c.MODEL.VIT.NUM_HEADS = 6
    _c.MODEL.VIT.MLP_RATIO = 4.0
    # Pretrained encoder: a DINO or timm file, or the name of a timm model, which is downloaded; "" starts from noise.
    _c.MODEL.VIT.WEIGHTS = ""
    _c.MODEL.VIT.STEM = "linear"  # or "conv": for small networks that start from noise

    _c.MODEL.PROMPT_ENCODER = CN()
    # The paper's PointPromptEncoder; or ClickPromptEncoder: negative clicks as well, and a short way to their place.
    _c.MODEL.PROMPT_ENCODER.NAME = "PointPromptEncoder"
    _c.MODEL.PROMPT_ENCODER.SCALE = 1.0  # standard deviation of the Fourier frequencies

    _c.MODEL.DECODER = CN()
    _c.MODEL.DECODER.DEPTH = 2
    _c.MODEL.DECODER.NUM_HEADS = 8
    _c.MODEL.DECODER.MLP_DIM = 2048
    _c.MODEL.DECODER.ATTENTION_DOWNSAMPLE_RATE = 2  # all attentions work at half width

    # Features of the image at a quarter and half of a patch, for objects as small as a patch. Not in the paper.
    _c.MODEL.DECODER.HIGH_RES_FEATURES = False

    # The contrastive embeddings: of "tokens" placed at the points (the paper), or of the image's "features" there.
    _c.MODEL.DECODER.CONTRASTIVE_FROM = "tokens"

    _c.MODEL.SEM_SEG_HEAD.NAME = "PointPromptSegHead"
    # Probability of the trained network at which outlines lie in the volume at hand: people draw them inside or outside
    # of a membrane, and 0.5 is where those of the training data did. What is predicted is shifted so that it becomes
    # 0.5, for pseudo-labels as well; the labels of source images stay as they are. `adapt --diameter` fits it.
    _c.MODEL.SEM_SEG_HEAD.OUTLINE_PROBABILITY = 0.5
    _c.MODEL.CENTER_HEAD = CN()
    _c.MODEL.CENTER_HEAD.NAME = "CenterPointHead"
    _c.MODEL.CENTER_HEAD.CHANNELS = 256
    _c.MODEL.CENTER_HEAD.SIGMA = 9.5  # of the Gaussian at a center point, in pixels of the network's input

    _c.MODEL.LOSS = CN()
    # Of a soft Dice loss beside the cross-entropy of masks. The paper has none; where most pixels are background,
    # cross-entropy alone leaves objects of which the network is not sure below the threshold.
    _c.MODEL.LOSS.DICE_WEIGHT = 0.0
    _c.MODEL.LOSS.DETECTION_WEIGHT = 10.0  # lambda_det, for densities in [0, 1]
    _c.MODEL.LOSS.CONTRASTIVE_WEIGHT = 0.1  # lambda_pcl
    _c.MODEL.LOSS.CONTRASTIVE_TEMPERATURE = 0.5
    # Subtract the mean of a batch's embeddings before they are compared. Without (the paper), embeddings that agree
    # with each other stay so: the gradient of their cosines is next to nothing.
    _c.MODEL.LOSS.CONTRASTIVE_CENTERED = False

    # ---------------------------------------------------------------------------------------------------- data
    _c.DATASETS.TARGET = ()  # unlabeled target volumes; DATASETS.TRAIN are the labeled source volumes
    _c.DATASETS.VAL = ()  # evaluated during training, chooses model_best.pth; DATASETS.TEST only at the end
    _c.DATASETS.VOLUMES = ()  # YAML descriptions of a user's own volumes, registered before anything is looked up

    _c.INPUT.CROP_SIZE = 384  # of training crops and of inference windows, in pixels of the network's input
    # Side of a pixel of the network in nm: every volume is resampled to it from its own voxel size. 0: SCALE holds.
    _c.INPUT.PIXEL_SIZE = 0.0
    # That of synthetic micrographs, for weights that predict at another one than they were trained at. 0: the same.
    _c.INPUT.SYNTHETIC_PIXEL_SIZE = 0.0
    # Network pixels per image pixel; 0.5 trains and predicts at half resolution. Other than 1.0 it is the override: it
    # holds for every volume, and PIXEL_SIZE is ignored. (For 1.0 in spite of it, set PIXEL_SIZE 0.)
    _c.INPUT.SCALE = 1.0
    # Typical diameter of an object in pixels of the network, for volumes of which no voxel size but the diameter of an
    # object is known (--diameter), and to warn where what is found has another size. Used with PIXEL_SIZE alone.
    _c.INPUT.DIAMETER = 14.5
    _c.INPUT.FOREGROUND_PROBABILITY = 0.7  # of training crops that are made to contain an instance

    _c.INPUT.AUGMENTATION = CN()  # the student's strong view
    _c.INPUT.AUGMENTATION.RIGHT_ANGLES = True  # flips and 90 degree rotations
    _c.INPUT.AUGMENTATION.NOISE_PROBABILITY = 0.3
    _c.INPUT.AUGMENTATION.NOISE_STD = 15.0  # largest standard deviation of the noise, in gray values
    _c.INPUT.AUGMENTATION.CONTRAST_PROBABILITY = 0.5
    _c.INPUT.AUGMENTATION.CONTRAST_RANGE = (0.7, 1.3)  # of brightness and of contrast
    _c.INPUT.AUGMENTATION.BLUR_PROBABILITY = 0.0
    _c.INPUT.AUGMENTATION.BLUR_SIGMA = 2.0  # largest, in pixels
    _c.INPUT.AUGMENTATION.ELASTIC_PROBABILITY = 0.0
    _c.INPUT.AUGMENTATION.ELASTIC_AMPLITUDE = 6.0  # largest displacement, in pixels
    _c.INPUT.AUGMENTATION.ELASTIC_SPACING = 64.0  # between control points, in pixels

    # Simulated clicks that change the target of training crops, see prompt_das/data/clicks.py. Not in the paper, where
    # prompts are a random subset of the centers and the target is the mask. They need ClickPromptEncoder.
    _c.INPUT.CLICKS = CN()
    _c.INPUT.CLICKS.ENABLED = False
    _c.INPUT.CLICKS.FREE_PROBABILITY = 0.3  # of a crop without any click
    _c.INPUT.CLICKS.ADDED_PROBABILITY = 0.6  # of regions that are no organelles, are clicked and become foreground
    _c.INPUT.CLICKS.MAX_ADDED = 5
    _c.INPUT.CLICKS.REMOVED_PROBABILITY = 0.3  # of organelles with a negative click, which leave the target
    _c.INPUT.CLICKS.BACKGROUND_PROBABILITY = 0.3  # of negative clicks on background, which change nothing
    _c.INPUT.CLICKS.MAX_BACKGROUND = 3
    _c.INPUT.CLICKS.ANYWHERE = 0.3  # probability of a click anywhere inside instead of at the center

    # Sparse center points of the target. FILE: points made by hand or by `prompt-das sample-points`; with no FILE,
    # RATIO of the instances of each labeled target slice are drawn, seeded, and written to OUTPUT_DIR. RATIO 0 is the
    # unsupervised mode: the source model makes the points at the end of burn-in.
    _c.DATASETS.SPARSE_POINTS = CN()
    _c.DATASETS.SPARSE_POINTS.FILE = ""
    _c.DATASETS.SPARSE_POINTS.RATIO = 0.15
    _c.DATASETS.SPARSE_POINTS.SEED = 0

    _c.DATALOADER.NUM_WORKERS = 4
    _c.DATALOADER.TARGET_IMS_PER_BATCH = 2  # beside SOLVER.IMS_PER_BATCH source images
    # A slice that cannot be read is skipped in the training, and crops are drawn from others instead; the run stops at
    # one more than so many. 0: training on fewer slices than there are has to be allowed explicitly.
    _c.DATALOADER.MAX_CORRUPT_SLICES = 0

    # ---------------------------------------------------------------------------------------- domain adaptation
    _c.DOMAIN_ADAPT = CN()
    _c.DOMAIN_ADAPT.ENABLED = False
    # Iterations on source images alone, part of SOLVER.MAX_ITER; left out where MODEL.WEIGHTS names a source model.
    _c.DOMAIN_ADAPT.BURN_IN_ITERS = 0

    _c.DOMAIN_ADAPT.TEACHER = CN()
    _c.DOMAIN_ADAPT.TEACHER.EMA_DECAY = 0.99
    # In the first iterations the decay is 1 - 1 / (step + 1), so that the teacher of a network that starts from noise
    # is not noise for long. A trained network (MODEL.WEIGHTS) has no such start: its teacher is it already.
    _c.DOMAIN_ADAPT.TEACHER.RAMP_UP = True
    _c.DOMAIN_ADAPT.TEACHER.EVALUATE = True  # evaluate, and start from, the teacher of a checkpoint, not the student

    # The components of the paper's ablation (Table 2), each with its own switch.
    _c.DOMAIN_ADAPT.USE_POINT_PSEUDO_LABELS = True  # L_det on the target
    _c.DOMAIN_ADAPT.USE_MASK_PSEUDO_LABELS = True  # L_seg on the target
    _c.DOMAIN_ADAPT.USE_PROMPTS = True  # prompts on the target, for teacher and student
    _c.DOMAIN_ADAPT.USE_CONTRASTIVE = True  # L_pcl

    # Of target crops on which the student gets no prompt at all. The paper draws 0 ... n prompts, seldom none, and a
    # network that follows clicks then hardly learns to segment without them.
    _c.DOMAIN_ADAPT.UNPROMPTED_PROBABILITY = 0.0

    _c.DOMAIN_ADAPT.POINTS = CN()  # pseudo-label NMS on the teacher's density
    _c.DOMAIN_ADAPT.POINTS.THRESHOLD = 0.49
    _c.DOMAIN_ADAPT.POINTS.KERNEL = 5
    _c.DOMAIN_ADAPT.POINTS.TOP_K = 100
    # They prompt the teacher's mask, beside the sparse points. A false one makes a false object there, of which a
    # network that follows clicks is sure; one that finds objects by itself labels better without.
    _c.DOMAIN_ADAPT.POINTS.PROMPT_TEACHER = True
    # Density above this without a point near is ignored in L_det. 1 keeps the paper's loss, which treats a missed
    # instance as background; a source model that misses most of them would lose the rest.
    _c.DOMAIN_ADAPT.POINTS.IGNORE_THRESHOLD = 1.0
    _c.DOMAIN_ADAPT.POINTS.UDA_THRESHOLD = 0.49  # of the pseudo sparse points that take the place of true ones

    # A sparse point is foreground for certain, so the pixels within so many pixels of it are, and the teacher's
    # background as far again around them is ignored; background around a negative click. 0: the teacher's mask alone.
    _c.DOMAIN_ADAPT.POINTS.SUPERVISION_RADIUS = 0.0

    _c.DOMAIN_ADAPT.MASKS = CN()
    _c.DOMAIN_ADAPT.MASKS.PIXEL_CONFIDENCE = 0.7  # pixels below are ignored
    # Components of the teacher's mask in which its density has no peak (POINTS.THRESHOLD), and which hold no sparse
    # point, become background: the two heads err in different places. Needs USE_POINT_PSEUDO_LABELS.
    _c.DOMAIN_ADAPT.MASKS.REQUIRE_PEAK = False
    # So do those whose highest probability is below; TEST.MIN_CONFIDENCE is the same in predictions. 0: none.
    _c.DOMAIN_ADAPT.MASKS.MIN_CONFIDENCE = 0.0
    _c.DOMAIN_ADAPT.MASKS.IMAGE_CONFIDENCE = 0.97  # the fraction of pixels above is the weight of the image

    _c.DOMAIN_ADAPT.CONTRASTIVE = CN()
    _c.DOMAIN_ADAPT.CONTRASTIVE.QUERIES_PER_INSTANCE = 3
    _c.DOMAIN_ADAPT.CONTRASTIVE.MAX_QUERIES = 256
    _c.DOMAIN_ADAPT.CONTRASTIVE.NUM_NEGATIVES = 512
    _c.DOMAIN_ADAPT.CONTRASTIVE.FOREGROUND = 0.9  # queries lie where the teacher's probability is above
    _c.DOMAIN_ADAPT.CONTRASTIVE.BACKGROUND = 0.1  # negatives where it is below

    # ------------------------------------------------------------------------------------------------- schedule
    _c.SOLVER.IMS_PER_BATCH = 2
    _c.SOLVER.MAX_ITER = 16000
    _c.SOLVER.BASE_LR = 1e-4
    _c.SOLVER.WEIGHT_DECAY = 0.01
    _c.SOLVER.LR_SCHEDULER_NAME = "PolynomialWithFloor"  # restarts when adaptation begins
    _c.SOLVER.POLY_POWER = 0.9
    _c.SOLVER.MIN_LR = 1e-6
    _c.SOLVER.WARMUP_ITERS = 0
    _c.SOLVER.CLIP_GRADIENTS.ENABLED = True
    _c.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    _c.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    # A step whose loss or gradient is not finite is skipped; after so many consecutive ones the run stops. A bad crop
    # or an unlucky step comes alone; ten different batches mean bad weights, and those do not heal: nothing moves.
    _c.SOLVER.MAX_NONFINITE_STEPS = 10
    _c.SOLVER.CHECKPOINT_PERIOD = 1000

    # ----------------------------------------------------------------------------------------------- evaluation
    _c.TEST.EVAL_PERIOD = 1000  # iterations; 0: only after the last one
    _c.TEST.BEST_METRIC = "paper/0%/Dice"  # of DATASETS.VAL, chooses model_best.pth
    _c.TEST.PROTOCOLS = ("paper", "instance")
    _c.TEST.PROMPT_RATIOS = (0.0, 0.15, 0.5, 1.0)  # of the true centers, given as prompts
    _c.TEST.PROMPT_SEED = 0
    # Instances: connected "components" of the mask, or those split at "centers", the peaks of the center density and
    # the positive clicks, see docs/explanation/instances.md. In an evaluation those of protocol "instance"; "paper" has
    # components.
    _c.TEST.INSTANCES = "components"
    _c.TEST.MIN_INSTANCE_SIZE = 15  # predicted components of at most so many pixels are removed
    # What a click may change in the predictor and in whole volumes: all of the "image", or the "object" that it is on,
    # see ops/click_reach.py. PROMPT_RATIOS are always evaluated with "image", as in the paper.
    _c.TEST.CLICK_REACH = "image"
    # Predicted components whose highest probability is below become background, but for those with a positive click
    # (hysteresis thresholding); 0 keeps all, as in the paper. It is the network's own probability, which
    # OUTLINE_PROBABILITY does not move.
    _c.TEST.MIN_CONFIDENCE = 0.0
    # In whole volumes (`prompt-das predict`) the predictions of slices up to twice as far away are averaged, with
    # Gaussian weights of this standard deviation in nm, see ops/depth_average.py; 0: each slice alone, as in the paper,
    # and as in evaluations of labeled slices. Needs the distance of slices, from the voxel size.
    _c.TEST.DEPTH_SIGMA = 0.0
    _c.TEST.SAVE_RLE = False  # COCO run-length JSON of every predicted instance
    _c.TEST.NUM_PICTURES = 3  # overlays, evenly from the best to the worst slice: 3 = best, median, worst
    _c.TEST.WINDOW = CN()  # defaults: the preset "fast"; the paper's: STRIDE 128, ROTATIONS 4
    _c.TEST.WINDOW.STRIDE = 256
    _c.TEST.WINDOW.ROTATIONS = 1
    _c.TEST.WINDOW.BLEND = "uniform"  # or "gaussian"
    _c.TEST.WINDOW.BATCH_SIZE = 16


def defaults() -> CN:
    """All keys with their defaults."""
    cfg = get_cfg()
    add_prompt_das_config(cfg)
    return cfg
