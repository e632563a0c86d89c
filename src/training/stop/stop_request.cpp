// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/ops/full.h>
#include <c10/util/Exception.h>
#include <lockstep/training/stop_request.h>

#include <optional>
#include <system_error>

#include "native/posix/signal_flag.h"

namespace lockstep {

class StopRequest::Impl {
 public:
  Impl(ProcessGroup& group, const StopRequestOptions& options) : group_(group) {
    try {
      flag_.emplace(options.signals());
    } catch (const std::system_error& error) {
      TORCH_CHECK(false, "StopRequest: ", error.what());
    }
  }

  bool requested() {
    if (is_requested_) return true;
    const at::Tensor any = at::full({1}, flag_->is_raised() ? 1 : 0, at::kInt);
    group_.all_reduce(any, ReduceOp::Max).wait();
    is_requested_ = any.item<int>() != 0;
    return is_requested_;
  }

 private:
  ProcessGroup& group_;
  std::optional<native::SignalFlag> flag_;
  bool is_requested_ = false;
};

StopRequest::StopRequest(ProcessGroup& group, const StopRequestOptions& options)
    : impl_(std::make_unique<Impl>(group, options)) {}

StopRequest::~StopRequest() = default;

bool StopRequest::requested() {
  return impl_->requested();
}

}  // namespace lockstep
