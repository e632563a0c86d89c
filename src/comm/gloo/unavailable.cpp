// SPDX-License-Identifier: BSD-3-Clause
#include <lockstep/core/error.h>

#include "comm/gloo/make_process_group.h"
#include "comm/group/group_core.h"

namespace lockstep {

std::unique_ptr<ExchangeBackend> make_gloo_backend(GroupContext&, const GlooRendezvous&) {
  throw LaunchError(
      "this build of Lockstep has no gloo backend; its headers (Debian: libgloo-dev) were not "
      "found when it was built");
}

std::shared_ptr<ProcessGroup> make_gloo_process_group(const LaunchEnvironment& environment,
                                                      std::chrono::milliseconds timeout,
                                                      const GlooRendezvous& rendezvous) {
  return std::make_shared<ProcessGroup>(
      GroupCore::make(Backend::Gloo, environment, timeout,
                      [&](GroupContext& group) { return make_gloo_backend(group, rendezvous); }));
}

}  // namespace lockstep
