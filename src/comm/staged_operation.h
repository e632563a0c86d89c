// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "comm/collective.h"
#include "comm/operation.h"

namespace lockstep {

/// A call on tensors of a device whose memory the backend cannot read: inputs are copied to pinned
/// CPU memory, the backend does its part there, and the outputs are copied back. All copies are
/// made on the stream that was current when the call was made; the operation is complete when the
/// outputs are in place, for every stream.
///
/// A collective that fails leaves the outputs as they were.
class StagedOperation final : public Operation {
 public:
  using Make = std::function<std::unique_ptr<Operation>(Collective staged)>;
  /// `make`: the same call on CPU tensors. It is called when this operation starts.
  StagedOperation(Collective call, Make make);

  bool try_start(bool is_oldest) override;
  bool try_finish() override;
  void sleep(std::chrono::nanoseconds limit) override;
  void check_peers() override;
  [[nodiscard]] std::string describe_missing() const override;

 private:
  /// Null on the CPU, where copies are done at once.
  [[nodiscard]] std::optional<c10::Event> copy_all(const std::vector<at::Tensor>& sources,
                                                   const std::vector<at::Tensor>& targets) const;
  [[nodiscard]] static bool is_copied(const std::optional<c10::Event>& event);

  Collective call_;
  Collective staged_;
  std::optional<c10::Stream> stream_;
  std::optional<c10::Event> copied_in_;
  std::optional<c10::Event> copied_out_;
  std::unique_ptr<Operation> operation_;
  Make make_;
  bool is_finished_ = false;
};

}  // namespace lockstep
