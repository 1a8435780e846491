//! Arguments to command to exit code (the command line's part replaces this).

fn main() -> std::process::ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == executor::slots::LAUNCH) {
        let error = executor::slots::launch(args);
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("launcher: {error}\n").as_bytes(),
        );
        return 127.into();
    }
    let environment = executor::config::Environment::of_process();
    let loaded = executor::config::load(&Default::default(), &environment).unwrap();
    executor::slots::harden().unwrap();
    match executor::serve::serve(loaded, &environment) {
        Ok(()) => 0.into(),
        Err(e) => {
            eprintln!("{e}");
            1.into()
        }
    }
}
