// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/log_sinks.h>

#include <cstdint>
#include <string>
#include <vector>

#include "native/curl/http_client.h"
#include "training/background/remote_outlet.h"

namespace lockstep::training {

/// The body of a request, in the format of ExportLogsServiceRequest.
[[nodiscard]] std::string otlp_json(const std::vector<LogRecord>& records,
                                    const OtlpOptions& options);

/// What a collector that took a request says about lines that it did not take.
struct PartialSuccess {
  std::uint64_t rejected = 0;
  std::string message;
};
/// `body`: from outside. One that is no such answer says nothing.
[[nodiscard]] PartialSuccess parse_partial_success(const std::string& body);

/// Posts to a collector of OpenTelemetry.
class OtlpTransport final : public LogTransport {
 public:
  /// `options` have been checked.
  explicit OtlpTransport(const OtlpOptions& options);

  void begin(const std::vector<LogRecord>& records) override;
  [[nodiscard]] State poll(Outlet::TimePoint now) override;
  void cancel() override { client_.cancel(); }
  [[nodiscard]] std::string failure() const override { return failure_; }
  [[nodiscard]] std::uint64_t refused_lines() const override { return refused_; }
  [[nodiscard]] std::chrono::seconds pause() const override { return pause_; }
  [[nodiscard]] std::size_t batch_lines() const override {
    return static_cast<std::size_t>(options_.batch_lines());
  }
  // Collectors refuse large requests.
  [[nodiscard]] std::size_t batch_bytes() const override { return std::size_t{1} << 20; }

 private:
  const OtlpOptions options_;
  std::string url_;
  std::vector<std::string> headers_;
  native::HttpClient client_;
  std::string failure_;
  std::uint64_t refused_ = 0;
  std::chrono::seconds pause_{0};
};

}  // namespace lockstep::training
