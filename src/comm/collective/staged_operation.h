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

#include "comm/collective/collective.h"
#include "comm/collective/operation.h"

namespace lockstep {

/// A call on tensors of a device, for a backend that knows no streams. It begins when the stream
/// that was current at the call has done what it had been given, and it is complete when the
/// outputs are in place, for every stream.
///
/// Where the backend cannot read the device's memory, inputs are copied to pinned CPU memory on
/// that stream, the backend does its part there, and the outputs are copied back.
///
/// A collective that fails leaves the outputs as they were.
class StagedOperation final : public Operation {
 public:
  enum class Mode { PinnedCopies, InPlace };
  using Make = std::function<std::unique_ptr<Operation>(Collective staged)>;
  /// `make`: the same call on the copies, or on the tensors themselves. It is called when this
  /// operation starts.
  StagedOperation(Collective call, Mode mode, Make make);

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

  /// Puts copies in the place of the tensors.
  void stage();

  Collective call_;
  Collective staged_;
  Mode mode_;
  std::optional<c10::Stream> stream_;
  std::optional<c10::Event> copied_in_;
  std::optional<c10::Event> copied_out_;
  std::unique_ptr<Operation> operation_;
  Make make_;
  bool is_finished_ = false;
};

}  // namespace lockstep
