// SPDX-License-Identifier: BSD-3-Clause
#include "native/cuda/nvtx_range.h"

#include <nvtx3/nvToolsExt.h>

#include <string>

namespace lockstep::native {
namespace {

/// Null: no tool listens, and none will, since NVTX looks for one once.
nvtxDomainHandle_t nvtx_domain() {
  static const nvtxDomainHandle_t domain = nvtxDomainCreateA("lockstep");
  return domain;
}

}  // namespace

bool begin_nvtx_range(std::string_view name) {
  const nvtxDomainHandle_t domain = nvtx_domain();
  if (domain == nullptr) return false;
  const std::string text(name);
  nvtxEventAttributes_t attributes{};
  attributes.version = NVTX_VERSION;
  attributes.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE;
  attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
  attributes.message.ascii = text.c_str();
  nvtxDomainRangePushEx(domain, &attributes);
  return true;
}

void end_nvtx_range() noexcept {
  nvtxDomainRangePop(nvtx_domain());
}

}  // namespace lockstep::native
