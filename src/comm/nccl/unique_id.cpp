// SPDX-License-Identifier: BSD-3-Clause
#include "comm/nccl/unique_id.h"

#include <ATen/ops/zeros.h>

#include <cstdint>
#include <cstring>

namespace lockstep {

SharedUniqueId share_unique_id(const NcclServices& services, int device, ProcessGroup& control) {
  SharedUniqueId shared{native::NcclResult::Success, {}};
  if (control.rank() == 0) {
    const native::DeviceScope scope(*services.device, device);
    shared.result = services.nccl->unique_id(shared.id);
  }
  const auto size = shared.id.size();
  const auto bytes = at::zeros({static_cast<std::int64_t>(size) + 1}, at::kByte);
  auto* data = bytes.data_ptr<std::uint8_t>();
  std::memcpy(data, shared.id.data(), size);
  data[size] = static_cast<std::uint8_t>(shared.result);
  control.broadcast(bytes).wait();
  shared.result = static_cast<native::NcclResult>(data[size]);
  std::memcpy(shared.id.data(), data, size);
  return shared;
}

}  // namespace lockstep
