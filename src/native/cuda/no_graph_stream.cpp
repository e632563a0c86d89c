// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>

#include "native/cuda/graph_stream.h"

namespace lockstep::native {

std::unique_ptr<GraphStream> make_graph_stream(int /*device*/) {
  TORCH_CHECK(false, "this build of Lockstep has no CUDA (LOCKSTEP_WITH_CUDA), so no graphs");
}

}  // namespace lockstep::native
