// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/inference/ensemble.h>

#include <utility>

#include "inference/ensemble_core.h"
#include "inference/option_checks.h"
#include "inference/tuner.h"
#include "native/posix/owning_process.h"

namespace lockstep::inference {

Ensemble::Ensemble(std::vector<Member> members, EnsembleOptions options) {
  detail::check_members_and_options(members, options);
  core_ = std::make_shared<detail::EnsembleCore>(std::move(members), std::move(options));
}

Ensemble::~Ensemble() {
  if (core_ == nullptr) return;
  if (core_->is_own_process()) {
    core_->close();
  } else {
    native::leave_alone(std::move(core_));
  }
}

Ensemble::Ensemble(Ensemble&& other) noexcept = default;

Ensemble& Ensemble::operator=(Ensemble&& other) noexcept {
  if (this != &other) {
    if (core_ != nullptr) core_->close();
    core_ = std::move(other.core_);
  }
  return *this;
}

detail::EnsembleCore& Ensemble::core() const {
  TORCH_CHECK(core_ != nullptr, "Ensemble: it was moved from and has no members");
  return *core_;
}

PendingAnswer Ensemble::submit(const at::Tensor& input) {
  return PendingAnswer(core().submit(input));
}

bool Ensemble::ready() const {
  return core().ready();
}

EnsembleStatistics Ensemble::statistics() const {
  return core().statistics();
}

TuneReport Ensemble::tune(const at::Tensor& sample, const TuneOptions& options) const {
  return detail::tune(core().members(), core().options(), sample, options);
}

void Ensemble::close() {
  core().close();
}

}  // namespace lockstep::inference
