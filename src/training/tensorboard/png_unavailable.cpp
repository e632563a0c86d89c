// SPDX-License-Identifier: BSD-3-Clause
// Stands in place of png_encoder.cpp where the build has no libpng.
#include <c10/util/Exception.h>

#include "training/tensorboard/image_pixels.h"

namespace lockstep::training {

std::string encode_png(const at::Tensor& /*pixels*/) {
  TORCH_CHECK(false,
              "TensorBoard::image: this build of Lockstep encodes no images; libpng and "
              "libjpeg-turbo (Debian: libpng-dev, libjpeg62-turbo-dev) were not found when it was "
              "built, or LOCKSTEP_WITH_IMAGES was OFF");
}

}  // namespace lockstep::training
