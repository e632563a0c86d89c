// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include "comm/gloo/make_process_group.h"

namespace lockstep {

std::shared_ptr<ProcessGroup> make_gloo_process_group(const LaunchEnvironment&,
                                                      std::chrono::milliseconds,
                                                      const GlooRendezvous&) {
  throw LaunchError(
      "this build of Lockstep has no gloo backend; its headers (Debian: libgloo-dev) were not "
      "found "
      "when it was built");
}

}  // namespace lockstep
