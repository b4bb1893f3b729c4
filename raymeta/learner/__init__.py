"""What a learner is. A new one is a subclass in a file of its own; see `docs/extending.md`."""

from raymeta.config.inner_loop import InnerLoopConfig as InnerLoopConfig
from raymeta.config.inner_loop import StepsConfig as StepsConfig
from raymeta.learner.base import Learner as Learner
from raymeta.learner.base import backbone as backbone
from raymeta.learner.base import build_learner as build_learner
from raymeta.learner.base import probabilities as probabilities
from raymeta.learner.base import task_loss as task_loss
from raymeta.learner.gradient import Adapted as Adapted
from raymeta.learner.gradient import GradientLearner as GradientLearner
from raymeta.learner.gradient import Support as Support
