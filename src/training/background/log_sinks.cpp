// SPDX-License-Identifier: BSD-3-Clause
#include <c10/util/Exception.h>
#include <lockstep/training/log_sinks.h>
#include <sys/un.h>

#include <algorithm>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "training/background/line_format.h"
#include "training/background/log_text.h"
#include "training/background/otlp_transport.h"
#include "training/background/remote_outlet.h"
#include "training/background/syslog_transport.h"
#include "training/background/writer_access.h"

namespace lockstep::training {
namespace {

WriterCore& core_for(const char* sink, const std::shared_ptr<BackgroundWriter>& writer) {
  TORCH_CHECK(writer != nullptr, sink, ": the writer is null");
  WriterCore* core = WriterAccess::core_of(*writer);
  TORCH_CHECK(core != nullptr, sink,
              ": this writer is a copy in a fork of the process; make another one there");
  return *core;
}

/// Keeps the writer. In a fork, the thread is not there: lines go where they go by default.
logging::Sink sink_of(std::shared_ptr<BackgroundWriter> writer, LineChannel& channel) {
  return [writer = std::move(writer), &channel](logging::Level level, std::string_view message) {
    WriterCore* core = WriterAccess::core_of(*writer);
    if (core == nullptr) {
      logging::write_to_stderr(level, message);
      return;
    }
    core->push(channel, level, message, level >= logging::Level::Warning);
  };
}

template <typename Number>
void check_range(const char* options, const char* name, Number value, Number least, Number most) {
  TORCH_CHECK(value >= least && value <= most, options, ": ", name, " is ", value,
              "; it must be from ", least, " to ", most);
}

void check(const SyslogOptions& options) {
  const char* const kName = "SyslogOptions";
  check_range(kName, "facility", options.facility(), 0, 23);
  // No datagram has 64 KiB.
  const bool is_tcp = options.transport() == SyslogTransport::Tcp;
  check_range<std::int64_t>(kName, "message_bytes", options.message_bytes(), 480,
                            is_tcp ? 1 << 20 : 65'000);
  check_range<std::int64_t>(kName, "timeout (in milliseconds)", options.timeout().count(), 1,
                            3'600'000);
  const auto& application = options.application();
  const bool is_printable =
      std::all_of(application.begin(), application.end(), [](char c) { return c > 32 && c < 127; });
  TORCH_CHECK(is_printable && !application.empty() && application.size() <= 48,
              "SyslogOptions: application is '", application,
              "'; it must have 1 to 48 characters, printable ASCII without blanks");
  if (options.transport() == SyslogTransport::Local) {
    TORCH_CHECK(
        !options.server().empty() && options.server().size() < sizeof(sockaddr_un::sun_path),
        "SyslogOptions: server is '", options.server(),
        "'; it must be the path of a socket, with fewer than ", sizeof(sockaddr_un::sun_path),
        " bytes");
  } else {
    TORCH_CHECK(parse_server(options.server()), "SyslogOptions: server is '", options.server(),
                "'; it must be host:port or [address]:port");
  }
}

void check(const OtlpOptions& options) {
  const char* const kName = "OtlpOptions";
  check_range<std::int64_t>(kName, "batch_lines", options.batch_lines(), 1, 100'000);
  check_range<std::int64_t>(kName, "timeout (in milliseconds)", options.timeout().count(), 1,
                            3'600'000);
  TORCH_CHECK(native::HttpClient::is_address(options.endpoint()), "OtlpOptions: endpoint is '",
              options.endpoint(), "'; it must be like http://host:4318");
  for (const auto& [name, value] : options.headers()) {
    const std::string both = name + value;
    const bool is_one_line = both.find_first_of("\r\n") == std::string::npos;
    TORCH_CHECK(!name.empty() && name.find(':') == std::string::npos && is_one_line,
                "OtlpOptions: '", name, "' is no header");
  }
}

}  // namespace

logging::Sink file_log(std::shared_ptr<BackgroundWriter> writer, const std::filesystem::path& path,
                       const FileLogOptions& options) {
  WriterCore& core = core_for("file_log", writer);
  TORCH_CHECK(!path.empty(), "file_log: the path is empty");
  TORCH_CHECK(options.rotate_bytes() >= 0, "FileLogOptions: rotate_bytes is ",
              options.rotate_bytes(), "; it must be 0 or more");
  check_range<std::int64_t>("FileLogOptions", "rotated_files", options.rotated_files(), 0, 1000);
  std::string prefix;
  append_escaped(prefix, options.prefix());
  LogFileSettings settings;
  settings.rotate_bytes = static_cast<std::uint64_t>(options.rotate_bytes());
  settings.rotated_files = static_cast<int>(options.rotated_files());
  settings.is_sink = true;
  settings.prefix = prefix;
  settings.format = [prefix](std::string& text, const QueuedLine& line) {
    append_remark(text, line, prefix);
  };
  settings.format_of_note = settings.format;
  return sink_of(std::move(writer), core.channel_of(path.string(), std::move(settings)));
}

logging::Sink syslog_log(std::shared_ptr<BackgroundWriter> writer, const SyslogOptions& options) {
  WriterCore& core = core_for("syslog_log", writer);
  check(options);
  auto outlet = std::make_unique<RemoteOutlet>("syslog server " + options.server(),
                                               std::make_unique<SyslogTransport5424>(options),
                                               options.spool(), core.counters(), core.files());
  return sink_of(std::move(writer), core.add(std::move(outlet)));
}

logging::Sink otlp_log(std::shared_ptr<BackgroundWriter> writer, const OtlpOptions& options) {
  WriterCore& core = core_for("otlp_log", writer);
  check(options);
  std::unique_ptr<OtlpTransport> transport;
  try {
    transport = std::make_unique<OtlpTransport>(options);
  } catch (const std::runtime_error& error) {
    TORCH_CHECK(false, "otlp_log: ", error.what());
  }
  auto outlet =
      std::make_unique<RemoteOutlet>("collector " + options.endpoint(), std::move(transport),
                                     options.spool(), core.counters(), core.files());
  return sink_of(std::move(writer), core.add(std::move(outlet)));
}

logging::Sink all_of(std::vector<logging::Sink> sinks) {
  for (const auto& sink : sinks) TORCH_CHECK(sink != nullptr, "all_of: one of the sinks is empty");
  return [sinks = std::move(sinks)](logging::Level level, std::string_view message) {
    for (const auto& sink : sinks) sink(level, message);
  };
}

}  // namespace lockstep::training
