// SPDX-License-Identifier: BSD-3-Clause
#include <ATen/record_function.h>
#include <lockstep/training/range.h>

#include <cstdint>
#include <string>
#include <utility>

#include "native/cuda/nvtx_range.h"
#include "training/profiler/kineto_recording.h"

namespace lockstep::training {

struct Range::Record {
  explicit Record(at::StepCallbacks&& listeners) : function(std::move(listeners)) {}
  at::RecordFunction function;
  const std::uint64_t ended = KinetoRecording::ended();
};

Range::Range(std::string_view name) {
  if (auto listeners = at::getStepCallbacksUnlessEmpty(at::RecordScope::USER_SCOPE)) {
    record_ = new Record(std::move(*listeners));
    record_->function.before(std::string(name));
  }
  is_in_nvtx_ = native::begin_nvtx_range(name);
}

Range::~Range() {
  if (is_in_nvtx_) native::end_nvtx_range();
  // A profile that has ended meanwhile needs no end of this range: see `ended`. The record leaks.
  if (record_ != nullptr && record_->ended == KinetoRecording::ended()) delete record_;
}

}  // namespace lockstep::training
