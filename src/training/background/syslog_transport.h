// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include <lockstep/training/log_sinks.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "native/posix/log_socket.h"
#include "native/posix/name_lookup.h"
#include "training/background/remote_outlet.h"

namespace lockstep::training {

/// "host:port" in its parts; "[address]:port" too.
struct ServerName {
  std::string host;
  std::string port;
};
/// Nothing: it has no host, or no port from 1 to 65535.
[[nodiscard]] std::optional<ServerName> parse_server(const std::string& text);

/// The begin of all messages of a process, from the host's name on.
[[nodiscard]] std::string syslog_origin(const SyslogOptions& options);
/// One message as RFC 5424 has it.
[[nodiscard]] std::string syslog_message(const LogRecord& record, const SyslogOptions& options,
                                         const std::string& origin);

/// Speaks with a syslog server.
class SyslogTransport5424 final : public LogTransport {
 public:
  /// `options` have been checked.
  explicit SyslogTransport5424(const SyslogOptions& options);

  void begin(const std::vector<LogRecord>& records) override;
  [[nodiscard]] State poll(Outlet::TimePoint now) override;
  [[nodiscard]] bool is_moving(Outlet::TimePoint now) const override;
  void cancel() override;
  [[nodiscard]] std::string failure() const override { return failure_; }
  [[nodiscard]] std::uint64_t refused_lines() const override { return refused_; }
  [[nodiscard]] std::size_t sent_records() const override { return sent_; }
  [[nodiscard]] std::size_t batch_lines() const override { return 512; }

 private:
  using Socket = native::LogSocket;

  [[nodiscard]] State connect(Outlet::TimePoint now);
  [[nodiscard]] State send(Outlet::TimePoint now);
  [[nodiscard]] State fail(std::string reason);
  [[nodiscard]] bool is_late(Outlet::TimePoint now) const;

  const SyslogOptions options_;
  const std::string origin_;
  ServerName server_;
  std::unique_ptr<native::NameLookup> lookup_;
  std::deque<native::TcpAddress> addresses_;  // of the server, that were not tried yet
  std::unique_ptr<Socket> socket_;
  bool is_connected_ = false;
  std::vector<std::string> messages_;  // of the batch
  std::size_t sent_ = 0;               // messages of it that were sent, over datagrams
  std::uint64_t refused_ = 0;          // of them, the system of this host did not take
  std::string stream_;                 // the batch, over TCP
  std::size_t stream_sent_ = 0;        // bytes of it
  Outlet::TimePoint stage_since_ = Outlet::TimePoint::max();
  std::string failure_;
};

}  // namespace lockstep::training
