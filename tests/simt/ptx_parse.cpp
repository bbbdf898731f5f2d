// The parser of ptx.h: statements up to a semicolon, one after the other.
#include <bit>
#include <cctype>
#include <charconv>
#include <stdexcept>

#include "ptx.h"

namespace simt::ptx {
namespace {

[[noreturn]] void refuse(std::string_view what, std::string_view where) {
  throw std::runtime_error("PTX: " + std::string(what) + ": " + std::string(where));
}

bool named(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.'; }
bool blank(char c) { return std::isspace(static_cast<unsigned char>(c)); }

std::string_view trimmed(std::string_view s) {
  while (!s.empty() && blank(s.front())) s.remove_prefix(1);
  while (!s.empty() && blank(s.back())) s.remove_suffix(1);
  return s;
}

std::string without_comments(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i, 2) == "//") i = text.find('\n', i);
    else if (text.substr(i, 2) == "/*") i = text.find("*/", i) + 2;
    if (i >= text.size()) break;
    out += text[i];
  }
  return out;
}

// Up to the first of `ends`, which is passed.
std::string_view taken(std::string_view& text, std::string_view ends) {
  const size_t end = text.find_first_of(ends);
  if (end == text.npos) refuse("ends early", text.substr(0, 80));
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(end + 1);
  return trimmed(part);
}

class Body {
 public:
  Body(Entry& entry) : entry_(entry) {}

  void parse(std::string_view& text) {
    for (int depth = 1; depth > 0;) {
      while (blank(text.front())) text.remove_prefix(1);
      if (text.front() == '{' || text.front() == '}') {
        depth += text.front() == '{' ? 1 : -1;
        text.remove_prefix(1);
        continue;
      }
      size_t name = 0;
      while (named(text[name])) ++name;
      if (name && text[name] == ':' && text[name + 1] != ':') {  // a label; an opcode may have ::
        labels_[std::string(text.substr(0, name))] = static_cast<int64_t>(entry_.code.size());
        text.remove_prefix(name + 1);
        continue;
      }
      statement(taken(text, ";"));
    }
    for (const auto& [at, label] : jumps_) {
      if (!labels_.count(label)) refuse("no such label", label);
      entry_.code[at].operands[0].number = labels_[label];
    }
    entry_.registers = static_cast<uint32_t>(registers_.size());
  }

 private:
  static constexpr std::string_view kBetween = "{}[],| \t\n";  // operands

  bool is_register(std::string_view name) const {
    const bool known = name.starts_with('%') || name == "_" || registers_.count(std::string(name));  // _: nobody wants it
    return known && name.find('.') == name.npos;
  }

  uint32_t reg(std::string_view name) {
    return registers_.try_emplace(std::string(name), static_cast<uint32_t>(registers_.size())).first->second;
  }

  void statement(std::string_view text) {
    if (text.front() == '.') {
      if (text.starts_with(".local")) {
        entry_.local_bytes = static_cast<size_t>(number(text.substr(text.find('[') + 1, text.find(']') - text.find('[') - 1)));
      } else if (text.starts_with(".reg") && text.find('<') == text.npos) {
        reg(text.substr(text.find_last_of(" \t") + 1));  // one by its own name
      } else if (!text.starts_with(".reg") && !text.starts_with(".pragma") && !text.starts_with(".loc\t")) {
        refuse("not understood", text);
      }
      return;
    }
    Instruction i;
    i.text = text;
    if (text.front() == '@') {
      text.remove_prefix(1);
      if (text.front() == '!') i.negated = true, text.remove_prefix(1);
      const size_t end = text.find_first_of(" \t");
      i.guard = static_cast<int>(reg(text.substr(0, end)));
      text = trimmed(text.substr(end));
    }
    const size_t end = std::min(text.find_first_of(" \t"), text.size());
    const std::string_view opcode = text.substr(0, end);
    std::string_view rest = trimmed(text.substr(end));
    if (opcode.starts_with("bra")) {
      jumps_.emplace_back(entry_.code.size(), rest);
      i.operands.emplace_back();
      rest = {};
    }
    while (!rest.empty()) {
      if (kBetween.find(rest.front()) != rest.npos) {
        rest.remove_prefix(1);
        continue;
      }
      const size_t length = std::min(rest.find_first_of(kBetween), rest.size());
      i.operands.push_back(operand(rest.substr(0, length)));
      rest.remove_prefix(length);
    }
    i.run = implementation(opcode, i);
    entry_.code.push_back(std::move(i));
  }

  // A register, a number, a name; of an address with what is added to it.
  Operand operand(std::string_view text) {
    using Kind = Operand::Kind;
    Operand o;
    if (std::isdigit(static_cast<unsigned char>(text.front())) || text.front() == '-') {
      o.number = number(text);
      return o;
    }
    size_t length = 0;
    while (length < text.size() && named(text[length])) ++length;
    const std::string_view name = text.substr(0, length);
    if (text.substr(length).starts_with('+')) o.number = number(text.substr(length + 1));
    else if (length < text.size()) refuse("not understood", text);
    static const std::map<std::string_view, Kind> special = {
        {"%tid.x", Kind::tid},       {"%ctaid.x", Kind::ctaid},        {"%ntid.x", Kind::ntid}, {"%nctaid.x", Kind::nctaid},
        {"%laneid", Kind::laneid},   {"%cluster_ctarank", Kind::rank}, {"%cluster_nctarank", Kind::ranks}};
    for (size_t p = 0; p < entry_.parameters.size(); ++p)
      if (name == entry_.parameters[p]) return {Kind::parameter, static_cast<uint32_t>(p), o.number};
    if (const auto found = special.find(name); found != special.end()) o.kind = found->second;
    else if (name.find("shared_memory") != name.npos) o.kind = Kind::shared;
    else if (name.starts_with("__local_depot")) o.kind = Kind::local;
    else if (is_register(name)) o.kind = Kind::reg, o.index = reg(name);
    else refuse("not understood", text);
    return o;
  }

  // Decimal, 0x…, and 0f… or 0d… for the bits of a number with a fraction.
  static int64_t number(std::string_view text) {
    const bool negative = text.front() == '-';
    if (negative) text.remove_prefix(1);
    int base = 10;
    if (text.size() > 2 && text[0] == '0' && std::string_view("xfdXFD").find(text[1]) != text.npos) base = 16, text.remove_prefix(2);
    if (text.back() == 'U') text.remove_suffix(1);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size()) refuse("no number", text);
    return static_cast<int64_t>(negative ? 0 - value : value);
  }

  Entry& entry_;
  std::map<std::string, uint32_t> registers_;
  std::map<std::string, int64_t> labels_;
  std::vector<std::pair<size_t, std::string>> jumps_;
};

}  // namespace

std::map<std::string, std::unique_ptr<Entry>> parse(std::string_view text) {
  std::map<std::string, std::unique_ptr<Entry>> entries;
  const std::string plain = without_comments(text);
  std::string_view rest = plain;
  if (rest.find(".func") != rest.npos) refuse("functions are not understood", ".func");
  for (size_t at; (at = rest.find(".entry")) != rest.npos;) {
    rest.remove_prefix(at + 6);
    auto entry = std::make_unique<Entry>();
    entry->name = taken(rest, "(");
    std::string_view parameters = taken(rest, ")");
    while (!parameters.empty()) {
      const size_t comma = std::min(parameters.find(','), parameters.size());
      std::string_view one = trimmed(parameters.substr(0, comma));
      parameters.remove_prefix(std::min(comma + 1, parameters.size()));
      one = one.substr(0, one.find('['));
      entry->parameters.emplace_back(one.substr(one.find_last_of(" \t") + 1));
    }
    taken(rest, "{");
    Body(*entry).parse(rest);
    const std::string name = entry->name;
    entries[name] = std::move(entry);
  }
  return entries;
}

}  // namespace simt::ptx
